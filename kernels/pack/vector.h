// pack.h for any vector type of kernels/simd. A vector covers two panels (its lanes are twice MR, on x86), or
// a panel is one or more whole vectors high. Included once by each ISA's file.
#pragma once

#include "kernels/pack/pack.h"
#include "kernels/simd/fetch.h"
#include "kernels/simd/transpose.h"

namespace kumiko::kernels {
namespace {

/// Elements that a lane holds: two where the ISA multiplies pairs (avx512_bf16.h).
template <class V>
constexpr int elements_per_lane() {
  if constexpr (requires { V::kElementsPerLane; }) {
    return V::kElementsPerLane;
  } else {
    return 1;
  }
}
/// Elements that a vector holds, and lanes that n elements take.
template <class V>
inline constexpr std::int64_t kElements = elements_per_lane<V>() * V::kLanes;
template <class V>
constexpr std::int64_t lanes_of(std::int64_t n) {
  return (n + elements_per_lane<V>() - 1) / elements_per_lane<V>();
}

/// Lanes x lanes block of rows[..][d..] into registers, absent rows and elements 0, transposed.
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

/// Vectors side by side in a panel; 1 where a vector covers two panels.
template <class V>
inline constexpr int kPanelVectors = V::kMr > V::kLanes ? V::kMr / V::kLanes : 1;
template <class V>
inline constexpr bool kTwoPanels = 2 * V::kMr == V::kLanes;
/// The first row of the panel that the vector at row j lies in.
template <class V>
constexpr std::int64_t panel_begin(std::int64_t j) {
  return kPanelVectors<V> == 1 ? j : j / V::kMr * V::kMr;
}

constexpr std::int64_t kPackAhead = 16384;  ///< bytes of keys fetched ahead

template <class V, class T>
void pack_key(const PackKeyArgs& args) {
  constexpr int kMr = V::kMr;
  static_assert(kTwoPanels<V> || kMr % V::kLanes == 0);
  const T* const first = static_cast<const T*>(args.src);
  const RowRange keys(first, args.stride, args.dim, kNoEnd);
  RowFetcher ahead(keys, keys, kPackAhead, V::kLanes, (args.dim + kElements<V> - 1) / kElements<V>);
  const std::int64_t steps = lanes_of<V>(args.dim);
  // To the end of the last row's panel: its vectors past that row become 0.
  for (std::int64_t j = 0; panel_begin<V>(j) < args.rows; j += V::kLanes) {
    const T* src = first + j * args.stride;
    const std::int64_t rows = args.rows - j;
    float* low = static_cast<float*>(args.dst) + panel_begin<V>(j) * steps + (j - panel_begin<V>(j));
    float* high = low + kMr * steps;
    const bool both = rows > kMr;  // the second panel exists only if a row falls into it
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

// Dims outside, keys inside: one or two panels are written front to back. The other way round 16 panels 8 KiB
// apart (256 keys, MR = 8) fight for one L1 set: 6.5 % of a 1024 x 1024 prefill on AVX-512, 11 % on AVX2 (Zen
// 5).
template <class V, class T>
bool pack_value(const PackValueArgs& args) {
  constexpr int kMr = V::kMr;
  constexpr int kStep = kPanelVectors<V> * V::kLanes;
  auto poison = V::zero();  // x * 0 is NaN for an infinity or a NaN, and NaN stays in the sum
  for (std::int64_t d = 0; d < args.dim; d += kStep) {
    const std::int64_t dims = args.dim - d;
    const T* src = static_cast<const T*>(args.src) + d;
    float* low = static_cast<float*>(args.dst) + d * args.rows;
    float* high = low + args.rows * kMr;
    for (std::int64_t j = 0; j < args.rows; ++j, src += args.stride, low += kMr, high += kMr) {
      __builtin_prefetch(src + 32 * args.stride, 0, 3);
      if constexpr (kTwoPanels<V>) {
        const auto x = dims >= V::kLanes ? V::load(src) : V::load_first(src, dims);
        poison = V::fma(x, V::zero(), poison);
        if (dims > kMr) {
          V::store_halves(low, high, x);
        } else {
          V::store_first(low, kMr, x);
        }
      } else {
#pragma GCC unroll 16
        for (int v = 0; v < kStep; v += V::kLanes) {
          const auto x = dims >= kStep ? V::load(src + v) : V::load_first(src + v, dims - v);
          poison = V::fma(x, V::zero(), poison);
          V::store(low + v, x);
        }
      }
    }
  }
  return !V::any_nan(poison);
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
