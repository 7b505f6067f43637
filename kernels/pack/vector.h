// SPDX-License-Identifier: Apache-2.0
// pack.h for any vector type of kernels/simd. A vector covers two panels (its lanes are twice MR, on x86), or
// a panel is one or more whole vectors high. Included once by each ISA's file.
#pragma once

#include "kernels/pack/elements.h"
#include "kernels/pack/pack.h"
#include "kernels/pack/values.h"
#include "kernels/simd/fetch.h"
#include "kernels/simd/transpose.h"

namespace kumiko::kernels {
namespace {

/// Loads a lanes x lanes block of rows[..][d..] into registers, transposed; missing rows and elements are 0.
template <class V, class RowAt>
inline void load_transposed(typename V::Reg (&x)[V::kLanes], RowAt row_at, std::int64_t rows, std::int64_t d,
                            std::int64_t dims) {
  if (rows >= V::kLanes && dims >= kElements<V>)
    return load_transposed_block<V>(x, [&](int i) { return row_at(i) + d; });
  for (int i = 0; i < V::kLanes; ++i) x[i] = i < rows ? V::load_first(row_at(i) + d, dims) : V::zero();
  V::transpose(x);
}

template <class V, class T>
void pack_query(const PackQueryArgs& args) {
  const auto scaled = [scale = args.scale](auto x) {
    if constexpr (elements_per_lane<V>() == 1) {
      return V::mul(x, V::set1(scale));
    } else {
      return V::times_sign(x, scale);
    }
  };
  float* const dst = static_cast<float*>(args.dst);
  for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
    const void* const* rows = args.rows + n;
    const std::int64_t used = args.rows_used - n;
    for (std::int64_t d = 0; d < args.dim; d += kElements<V>) {
      const std::int64_t dims = args.dim - d;
      typename V::Reg x[V::kLanes];
      load_transposed<V>(
          x, [&](int i) { return static_cast<const T*>(rows[i]); }, used, d, dims);
      const int count = dims < kElements<V> ? static_cast<int>(lanes_of<V>(dims)) : V::kLanes;
      for (int i = 0; i < count; ++i) V::store(dst + (lanes_of<V>(d) + i) * args.nr + n, scaled(x[i]));
    }
  }
}

/// The first row of the panel that contains the vector at row j.
template <class V>
constexpr std::int64_t panel_begin(std::int64_t j) {
  return kPanelVectors<V> == 1 ? j : j / V::kMr * V::kMr;
}

constexpr std::int64_t kPackAhead = 16384;  ///< bytes of keys fetched ahead

// One panel at a time, by whole vectors. 256 keys of D = 128 with rows 4 KiB apart (8 heads side by side),
// Zen 5, AVX-512: 3.4 us from L3, where transposing 16 rows for two panels and storing halves takes 4.0.
// In L2, Zen 3, AVX2, time over that of 8 rows for two panels: f32 0.62, bf16 0.60, f16 0.58.
template <class V, class T>
void pack_key_panels(const PackKeyArgs& args) {
  constexpr std::int64_t kMr = V::kMr, kLanes = V::kLanes;
  constexpr int kLines = kMr * kLanes * sizeof(T) / kLine;
  const T* const keys = static_cast<const T*>(args.src);
  float* dst = static_cast<float*>(args.dst);
  const RowRange range = endless_rows(keys, args.stride, args.dim);
  RowFetcher ahead({&range, &range + 1}, kPackAhead, kMr, (args.dim + kLanes - 1) / kLanes);
  for (std::int64_t j = 0; j < args.rows; j += kMr) {
    const std::int64_t rows = args.rows - j;
    for (std::int64_t d = 0; d < args.dim; d += kLanes) {
      const auto row_at = [src = keys + j * args.stride + d, &args](int i) { return src + i * args.stride; };
      const std::int64_t dims = args.dim - d;
      if (rows >= kMr && dims >= kLanes) {
        ahead.fetch_lines<kLines>();
        typename V::Reg x[kMr];
        V::load_panel(x, row_at);
#pragma GCC unroll 8
        for (int i = 0; i < kMr; ++i, dst += kLanes) V::store(dst, x[i]);
      } else {
        typename V::Reg x[kLanes];
        load_transposed<V>(x, row_at, rows < kMr ? rows : kMr, 0, dims);
        for (int i = 0; i < kLanes && i < dims; ++i, dst += kMr) V::store_first(dst, kMr, x[i]);
      }
    }
  }
}

template <class V, class T>
void pack_key(const PackKeyArgs& args) {
  if constexpr (requires(typename V::Reg(&x)[V::kMr], const T* (*row_at)(int)) { V::load_panel(x, row_at); })
    return pack_key_panels<V, T>(args);
  constexpr int kMr = V::kMr;
  static_assert(kTwoPanels<V> || kMr % V::kLanes == 0);
  const T* const first = static_cast<const T*>(args.src);
  const RowRange keys = endless_rows(first, args.stride, args.dim);
  RowFetcher ahead({&keys, &keys + 1}, kPackAhead, V::kLanes, (args.dim + kElements<V> - 1) / kElements<V>);
  const std::int64_t steps = lanes_of<V>(args.dim);
  // To the end of the last row's panel: vectors past that row become 0.
  for (std::int64_t j = 0; panel_begin<V>(j) < args.rows; j += V::kLanes) {
    const T* src = first + j * args.stride;
    const std::int64_t rows = args.rows - j;
    float* low = static_cast<float*>(args.dst) + panel_begin<V>(j) * steps + (j - panel_begin<V>(j));
    float* high = low + kMr * steps;
    const bool both = rows > kMr;  // the second panel exists only if it has a row
    for (std::int64_t d = 0; d < args.dim; d += kElements<V>) {
      const std::int64_t dims = args.dim - d, step = lanes_of<V>(d);
      typename V::Reg x[V::kLanes];
      ahead.fetch();
      load_transposed<V>(
          x, [&](int i) { return src + i * args.stride; }, rows, d, dims);
      const int count = dims < kElements<V> ? static_cast<int>(lanes_of<V>(dims)) : V::kLanes;
      if constexpr (!kTwoPanels<V>) {
        for (int i = 0; i < count; ++i) V::store(low + (step + i) * kMr, x[i]);
      } else if (both) {
        for (int i = 0; i < count; ++i)
          V::store_halves(low + (step + i) * kMr, high + (step + i) * kMr, x[i]);
      } else {
        for (int i = 0; i < count; ++i) V::store_first(low + (step + i) * kMr, kMr, x[i]);
      }
    }
  }
}

#define KUMIKO_PACK_KERNELS(name, V, T)                   \
  void name##_query(const PackQueryArgs& args) noexcept { \
    pack_query<V, T>(args);                               \
  }                                                       \
  void name##_key(const PackKeyArgs& args) noexcept {     \
    pack_key<V, T>(args);                                 \
  }                                                       \
  bool name##_value(const PackValueArgs& args) noexcept { \
    return pack_value<V, T>(args);                        \
  }

}  // namespace
}  // namespace kumiko::kernels
