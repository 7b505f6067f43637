// SPDX-License-Identifier: Apache-2.0
// BlockProducts of scores.h for f32 keys on AVX2, with rows in the lanes. With keys in the lanes, keys have
// to be transposed through L1 first. Here an element of a key goes to all lanes, by a shuffle within halves
// or, of more than four rows, by the load itself, and meets that dim of all rows: 16 keys by 4 rows, two keys
// a vector, or 8 keys by 8 rows. Each score is the same chain of multiply-adds.
//
// Zen 3, 256 keys, D = 128, in L2: 4 rows 5.4 us with keys in the lanes, 5.0 here; 8 rows 12.2, 8.8; 1
// row 3.7, 4.9. From memory, where nothing is stored between two reads, one row has 0.8 of the read loop here
// and 0.6 with keys in the lanes. Elements of 16 bits have to be widened beside the shuffles: bf16, 4
// rows 4.6, 5.7.
#pragma once

#include "kernels/decode/scores.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {
namespace {

/// R rows, dim by dim, filled up to 4 or 8 with copies of the last one.
template <int R>
class QueryLanes {
 public:
  static constexpr int kRows = R > 4 ? 8 : 4;
  QueryLanes(const DecodeScoresArgs& args, std::int64_t row) {
    const float* q[kRows];
    for (int r = 0; r < kRows; ++r) q[r] = args.q + (row + (r < R ? r : R - 1)) * args.q_stride;
    std::int64_t d = 0;
    for (; d + 8 <= args.dim; d += 8) set_lanes(q, d);
    for (; d < args.dim; ++d) {
      for (int r = 0; r < kRows; ++r) lanes_[d * kRows + r] = q[r][d];
    }
  }
  /// Four dims, each in a vector: 8 rows, or 4 rows twice.
  [[gnu::always_inline]] void load(std::int64_t d, __m256 (&q)[4]) const {
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      const float* at = lanes_ + (d + c) * kRows;
      q[c] = kRows == 8 ? _mm256_load_ps(at) : _mm256_broadcast_ps(reinterpret_cast<const __m128*>(at));
    }
  }

 private:
  /// Of 8 dims.
  void set_lanes(const float* const (&q)[kRows], std::int64_t d) {
    float* const to = lanes_ + d * kRows;
    __m256 x[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) x[r] = _mm256_loadu_ps(q[r] + d);
    if constexpr (kRows == 8) {
      Avx2::transpose(x);
#pragma GCC unroll 8
      for (int c = 0; c < 8; ++c) _mm256_store_ps(to + 8 * c, x[c]);
    } else {
      Avx2::transpose_halves(x[0], x[1], x[2], x[3]);
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        _mm_store_ps(to + 4 * c, _mm256_castps256_ps128(x[c]));
        _mm_store_ps(to + 4 * (c + 4), _mm256_extractf128_ps(x[c], 1));
      }
    }
  }

  alignas(32) float lanes_[kMaxHeadDim * kRows];
};

template <>
struct BlockProducts<Avx2, float> {
  static constexpr std::int64_t kDims = 8;
  static constexpr int kSteps = 8;
  static constexpr int kLines = 4;  ///< of 8 keys by 8 dims

  template <int R>
  using Queries = QueryLanes<R>;
  template <int R>
  static constexpr int kPartsOf = R > 4 ? 1 : 2;

  /// Vectors of sums: number 4 part + i is of keys 8 part + i and 8 part + i + 4, or number i of key i.
  template <int R, int kParts>
  [[gnu::always_inline]] static void add(const float* const (&keys)[kParts], std::int64_t stride,
                                         std::int64_t dims, const QueryLanes<R>& queries,
                                         __m256 (&sum)[R][kParts], RowFetcher& ahead) {
    constexpr int kRows = QueryLanes<R>::kRows;
    // A line is read in four steps, between which lines of all other keys are. At this distance they meet in
    // a set of an L1 of 8 ways: better read once, in order (Zen 4, rows 4 KiB apart: 0.39 of the limit, so
    // 0.53).
    constexpr std::int64_t kMeet = 2048 / sizeof(float), kMostDims = 256;
    alignas(64) float copies[kParts * 8 * kMostDims];
    const float* first[kParts];
    std::int64_t step = stride;
#pragma GCC unroll 2
    for (int p = 0; p < kParts; ++p) first[p] = keys[p];
    if (__builtin_expect(stride % kMeet == 0 && dims <= kMostDims, 0)) {
      step = dims;
      for (int p = 0; p < kParts; ++p) first[p] = copy_rows(keys[p], stride, dims, copies + p * 8 * dims);
    }
    __m256 rows[kSums];
#pragma GCC unroll 8
    for (int i = 0; i < kSums; ++i) rows[i] = _mm256_setzero_ps();
    for (std::int64_t d = 0; d < dims; d += kDims) {
#pragma GCC unroll 2
      for (int half = 0; half < kDims; half += 4) {
        __m256 q[4];
        queries.load(d + half, q);
#pragma GCC unroll 4
        for (int i = 0; i < kSums; i += 2) {
          if (kParts == 2 || i % 4 == 0) ahead.fetch_lines<1>();
          const float* key = kRows == 8 ? first[0] + i * step : first[i / 4] + i % 4 * step;
          add_products<kRows>(key + d + half, step, q, rows[i], rows[i + 1]);
        }
      }
    }
    if constexpr (kRows == 8) {
      Avx2::transpose(rows);
    } else {
      Avx2::transpose_halves(rows[0], rows[1], rows[2], rows[3]);
      Avx2::transpose_halves(rows[4], rows[5], rows[6], rows[7]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int p = 0; p < kParts; ++p) sum[r][p] = rows[4 * p + r];
    }
  }

 private:
  static constexpr int kSums = 8;

  /// Eight rows, one after the other.
  static const float* copy_rows(const float* from, std::int64_t stride, std::int64_t dims, float* to) {
    for (int i = 0; i < 8; ++i) {
      for (std::int64_t d = 0; d < dims; d += 8)
        _mm256_storeu_ps(to + i * dims + d, _mm256_loadu_ps(from + i * stride + d));
    }
    return to;
  }

  /// Adds the products of four dims to two neighbouring vectors of sums; `key` is the first one's.
  template <int kRows>
  [[gnu::always_inline]] static void add_products(const float* key, std::int64_t stride, const __m256 (&q)[4],
                                                  __m256& sum, __m256& next_sum) {
    const float* const next = key + stride;
    if constexpr (kRows == 8) {
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
        sum = _mm256_fmadd_ps(_mm256_broadcast_ss(key + c), q[c], sum);
        next_sum = _mm256_fmadd_ps(_mm256_broadcast_ss(next + c), q[c], next_sum);
      }
    } else {
      const __m256 x = load_halves(key, stride), y = load_halves(next, stride);
      const auto add = [&]<int c>() __attribute__((always_inline)) {
        sum = _mm256_fmadd_ps(_mm256_permute_ps(x, c * 0x55), q[c], sum);
        next_sum = _mm256_fmadd_ps(_mm256_permute_ps(y, c * 0x55), q[c], next_sum);
      };
      add.template operator()<0>();
      add.template operator()<1>();
      add.template operator()<2>();
      add.template operator()<3>();
    }
  }

  /// Four dims of a key and of the fourth one after it. (A broadcast and a blend, as in
  /// x86_avx2_transpose.h.)
  [[gnu::always_inline]] static __m256 load_halves(const float* key, std::int64_t stride) {
    return _mm256_blend_ps(_mm256_castps128_ps256(_mm_loadu_ps(key)),
                           _mm256_broadcast_ps(reinterpret_cast<const __m128*>(key + 4 * stride)), 0xf0);
  }
};

}  // namespace
}  // namespace kumiko::kernels
