// SPDX-License-Identifier: Apache-2.0
// The value panels of pack.h for any vector type of kernels/simd.
#pragma once

#include "kernels/pack/elements.h"
#include "kernels/pack/pack.h"
#include "kernels/simd/fetch.h"

namespace kumiko::kernels {
namespace {

/// Checks all vectors it is shown for infinities and NaNs. Several sums, because one would be a single chain
/// of dependent additions.
template <class V>
class Finite {
 public:
  static constexpr int kSums = 4;
  Finite() {
    for (auto& sum : sums_) sum = V::zero();
  }
  [[gnu::always_inline]] void look_at(typename V::Reg x, int sum) {
    sums_[sum] = V::fma(x, V::zero(), sums_[sum]);  // x * 0 is NaN for an infinity or a NaN, and NaN stays
  }
  bool all() const { return !V::any_nan(V::add(V::add(sums_[0], sums_[1]), V::add(sums_[2], sums_[3]))); }

 private:
  typename V::Reg sums_[kSums];
};
template <class V>
requires(elements_per_lane<V>() == 2) class Finite<V> {
 public:
  static constexpr int kSums = 1;
  [[gnu::always_inline]] void look_at(typename V::Reg x, int) { bad_ |= V::not_finite(x); }
  bool all() const { return bad_ == 0; }

 private:
  decltype(V::not_finite(V::zero())) bad_ = 0;
};

/// One panel's steps, row by row, where they do not fill a vector: few dims, or the last rows.
template <class V, class T>
void pack_value_rest(const T* src, std::int64_t stride, std::int64_t rows, std::int64_t dims, float* dst,
                     Finite<V>& finite) {
  for (std::int64_t j = 0; j < rows; j += elements_per_lane<V>(), dst += V::kMr) {
    const T* row = src + j * stride;
    typename V::Reg x;
    if constexpr (elements_per_lane<V>() == 1) {
      x = V::load_first(row, dims);
    } else {
      x = V::interleave_first(row, j + 1 < rows ? row + stride : nullptr, dims);
    }
    finite.look_at(x, 0);
    V::store_first(dst, V::kMr, x);
  }
}

// Where a vector covers two panels:
// - a vector holds two rows of one panel (four of pairs), so that panels are written by whole vectors;
// - strips of panels: those being written often lie a multiple of 4 KiB apart, and must fit into one set of
//   the L1;
// - runs of rows, so that all strips read neighbouring memory, which is prefetched in memory order.
// Times in us for 256 rows of D = 128 from the L3 of Zen 5. One row's part of two panels at a time, with dims
// in the outer loop: AVX-512 5.9, AVX2 8.4; with rows 4 KiB apart (8 heads side by side), all in one set,
// 10.2 and 13.7. This way: 3.8, 3.7, 3.8 and 4.4. AVX2 on a Zen 3 (an L1 of 8 ways), time over that of strips
// of 8 panels and runs of 16 rows, in L2: 4 panels f32 0.94, bf16 0.97; with 32 rows 0.90 and 0.95. Over the
// time of the last: 64 rows 1.07 and 1.04, fetches 24 KiB ahead 1.11 and 1.07.
template <class V, class T>
bool pack_value_two_panels(const PackValueArgs& args) {
  constexpr std::int64_t kMr = V::kMr, kStrip = kMr == 4 ? 4 * kMr : 8 * kMr, kRun = kMr == 4 ? 32 : 16,
                         kAhead = 12288;
  constexpr std::int64_t kVectorRows = kElements<V> / kMr;
  constexpr std::int64_t kRows = 64 / (kMr * 4) * elements_per_lane<V>();  // rows of a panel in a cache line
  const std::int64_t height = lanes_of<V>(args.rows) * kMr;                // lanes of a panel
  const T* const values = static_cast<const T*>(args.src);
  float* const dst = static_cast<float*>(args.dst);
  const std::int64_t whole_rows = args.rows / kRows * kRows, whole_dims = args.dim / kMr * kMr;
  Finite<V> finite;
  const auto pack_line = [&](std::int64_t j, std::int64_t d) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (std::int64_t r = 0; r < kRows; r += kVectorRows) {
      const auto x = V::load_panel_rows(values + (j + r) * args.stride + d, args.stride);
      finite.look_at(x, static_cast<int>((d / kMr + r / kVectorRows) % Finite<V>::kSums));
      V::store(dst + d / kMr * height + lanes_of<V>(j + r) * kMr, x);
    }
  };
  const RowRange range = endless_rows(values, args.stride, args.dim);
  RowFetcher ahead({&range, &range + 1}, kAhead, kRows, (args.dim + kStrip - 1) / kStrip);
  for (std::int64_t run = 0; run < whole_rows; run += kRun) {
    const std::int64_t run_end = run + kRun < whole_rows ? run + kRun : whole_rows;
    for (std::int64_t strip = 0; strip < whole_dims; strip += kStrip) {
      for (std::int64_t j = run; j < run_end; j += kRows) {
        ahead.fetch();
        if (strip + kStrip <= whole_dims) {
#pragma GCC unroll 8
          for (std::int64_t d = 0; d < kStrip; d += kMr) pack_line(j, strip + d);
        } else {
          for (std::int64_t d = strip; d < whole_dims; d += kMr) pack_line(j, d);
        }
      }
    }
  }
  for (std::int64_t d = 0; d < args.dim; d += kMr) {
    const std::int64_t done = d < whole_dims ? whole_rows : 0, dims = args.dim - d < kMr ? args.dim - d : kMr;
    pack_value_rest<V>(values + done * args.stride + d, args.stride, args.rows - done, dims,
                       dst + d / kMr * height + lanes_of<V>(done) * kMr, finite);
  }
  return finite.all();
}

/// Where a panel is one or more whole vectors high: dims in the outer loop, keys in the inner one.
template <class V, class T>
bool pack_value_whole_vectors(const PackValueArgs& args) {
  constexpr int kStep = kPanelVectors<V> * V::kLanes;
  Finite<V> finite;
  for (std::int64_t d = 0; d < args.dim; d += kStep) {
    const std::int64_t dims = args.dim - d;
    const T* src = static_cast<const T*>(args.src) + d;
    float* dst = static_cast<float*>(args.dst) + d * args.rows;
    for (std::int64_t j = 0; j < args.rows; ++j, src += args.stride, dst += V::kMr) {
      __builtin_prefetch(src + 32 * args.stride, 0, 3);
#pragma GCC unroll 16
      for (int v = 0; v < kStep; v += V::kLanes) {
        const auto x = dims >= kStep ? V::load(src + v) : V::load_first(src + v, dims - v);
        finite.look_at(x, v / V::kLanes % Finite<V>::kSums);
        V::store(dst + v, x);
      }
    }
  }
  return finite.all();
}

template <class V, class T>
bool pack_value(const PackValueArgs& args) {
  if constexpr (kTwoPanels<V>) {
    return pack_value_two_panels<V, T>(args);
  } else {
    return pack_value_whole_vectors<V, T>(args);
  }
}

}  // namespace
}  // namespace kumiko::kernels
