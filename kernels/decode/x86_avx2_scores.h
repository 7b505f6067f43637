// SPDX-License-Identifier: Apache-2.0
// BlockProducts of scores.h for f32 keys on AVX2, with rows in the lanes. With keys in the lanes, keys have
// to be transposed through L1 first. Here an element of a key is broadcast, by a shuffle within halves or,
// for more than four rows, by the load itself, and multiplied by that dim of all rows: 16 keys by 4 rows, two
// keys a vector, or 8 keys by 8 rows. Each score is the same chain of multiply-adds.
//
// Zen 3, 256 keys, D = 128, in L2: 4 rows 5.4 us with keys in the lanes, 5.0 here; 8 rows 12.2 and 8.8; 1 row
// 3.7 and 4.9. From memory, where nothing is stored between two reads, one row has 0.8 of the read loop here
// and 0.6 with keys in the lanes. Elements of 16 bits have to be widened beside the shuffles: bf16, 4 rows
// 4.6 and 5.7.
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
  /// [dim][kRows]
  const float* lanes() const { return lanes_; }

 private:
  /// Transposes 8 dims of the rows.
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
  static constexpr int kLines = 4;  ///< cache lines of 8 keys by 8 dims

  template <int R>
  using Queries = QueryLanes<R>;
  template <int R>
  static constexpr int kPartsOf = R > 4 ? 1 : 2;

  /// Vectors of sums: 4 rows: vector 4 part + i is of keys 8 part + i and 8 part + i + 4; 8 rows: vector i is
  /// of key i.
  template <int R, int kParts>
  [[gnu::always_inline]] static void add(const float* const (&keys)[kParts], std::int64_t stride,
                                         std::int64_t dims, const QueryLanes<R>& queries,
                                         __m256 (&sum)[R][kParts], RowFetcher& ahead) {
    constexpr int kRows = QueryLanes<R>::kRows;
    // A line is read in four steps, and lines of all other keys are read between them. At this stride they
    // all fall into the same set of an 8-way L1: it is better to copy each row first (Zen 4, rows 4 KiB
    // apart: 0.53 of the limit instead of 0.39).
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
    if constexpr (kRows == 8) {
      add_eight_rows(first[0], step, dims, queries, rows, ahead);
    } else {
      add_four_rows(first, step, dims, queries, rows, ahead);
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

  /// Copies eight rows, to one after the other.
  static const float* copy_rows(const float* from, std::int64_t stride, std::int64_t dims, float* to) {
    for (int i = 0; i < 8; ++i) {
      for (std::int64_t d = 0; d < dims; d += 8)
        _mm256_storeu_ps(to + i * dims + d, _mm256_loadu_ps(from + i * stride + d));
    }
    return to;
  }

  /// One key a vector of sums.
  template <int R>
  [[gnu::always_inline]] static void add_eight_rows(const float* key, std::int64_t stride, std::int64_t dims,
                                                    const QueryLanes<R>& queries, __m256 (&sum)[kSums],
                                                    RowFetcher& ahead) {
    for (std::int64_t d = 0; d < dims; d += 4) {
      __m256 q[4];
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) q[c] = _mm256_load_ps(queries.lanes() + (d + c) * 8);
#pragma GCC unroll 4
      for (int i = 0; i < kSums; i += 2) {
        if (i % 4 == 0) ahead.fetch_line();
        const float *const at = key + i * stride + d, *const next = at + stride;
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) {
          sum[i] = _mm256_fmadd_ps(_mm256_broadcast_ss(at + c), q[c], sum[i]);
          sum[i + 1] = _mm256_fmadd_ps(_mm256_broadcast_ss(next + c), q[c], sum[i + 1]);
        }
      }
    }
  }

  /// Two keys a vector of sums. Four sums get one dim, then the next: the other way round, two sums with four
  /// dims each, products wait for each other (Zen 3, 256 keys, in L2: 5.4 us instead of 5.0).
  template <int R>
  [[gnu::always_inline]] static void add_four_rows(const float* const (&keys)[2], std::int64_t stride,
                                                   std::int64_t dims, const QueryLanes<R>& queries,
                                                   __m256 (&sum)[kSums], RowFetcher& ahead) {
    EightKeys first(keys[0], stride), second(keys[1], stride);
    const float* q = queries.lanes();
    asm volatile("" ::: "memory");  // The compiler does not see that low() and high() read the copies.
    for (const float* const end = q + 4 * dims; q != end; q += 16) {
      first.add_dims(q, stride * 4, stride * 12, ahead);
      second.add_dims(q, stride * 4, stride * 12, ahead);
    }
    first.get(sum);
    second.get(sum + 4);
  }

  /// Eight keys and their sums, in members because g++ 12 keeps arrays in memory here.
  class EightKeys {
   public:
    EightKeys(const float* keys, std::int64_t stride) : even_(keys), odd_(keys + stride) {}
    void get(__m256* sum) const { sum[0] = a_, sum[1] = b_, sum[2] = c_, sum[3] = d_; }

    /// The products of the next four dims; one key is `one` bytes from the next, and `three` is three of
    /// them.
    [[gnu::always_inline]] void add_dims(const float* q, std::int64_t one, std::int64_t three,
                                         RowFetcher& ahead) {
      ahead.fetch_line();
      const __m256 x0 = join(_mm_loadu_ps(even_), high<4>(even_, one)),
                   x1 = join(_mm_loadu_ps(odd_), high<4>(odd_, one)),
                   x2 = join(low<2>(even_, one), high<2>(even_, three)),
                   x3 = join(low<1>(even_, three), high<2>(odd_, three));
      even_ += 4, odd_ += 4;
      add_dim<0>(q, x0, x1, x2, x3);
      add_dim<1>(q, x0, x1, x2, x3);
      ahead.fetch_line();
      add_dim<2>(q, x0, x1, x2, x3);
      add_dim<3>(q, x0, x1, x2, x3);
    }

   private:
    template <int kDim>
    [[gnu::always_inline]] void add_dim(const float* q, __m256 x0, __m256 x1, __m256 x2, __m256 x3) {
      constexpr int kAll = kDim * 0x55;
      __m256 factor;  // Loaded for each EightKeys: no register is left to keep it in.
      asm volatile("vbroadcastf128 %c2(%1), %0" : "=x"(factor) : "r"(q), "i"(16 * kDim));
      a_ = _mm256_fmadd_ps(_mm256_permute_ps(x0, kAll), factor, a_);
      b_ = _mm256_fmadd_ps(_mm256_permute_ps(x1, kAll), factor, b_);
      c_ = _mm256_fmadd_ps(_mm256_permute_ps(x2, kAll), factor, c_);
      d_ = _mm256_fmadd_ps(_mm256_permute_ps(x3, kAll), factor, d_);
      asm volatile("" : "+x"(a_), "+x"(b_), "+x"(c_), "+x"(d_));  // in this order
    }
    const float *even_, *odd_;
    __m256 a_ = _mm256_setzero_ps(), b_ = a_, c_ = a_, d_ = a_;
  };

  /// Four dims of the key that is kScale times `step` bytes after `from`; high() has them in both halves.
  /// (From pointers and strides g++ 12 makes a pointer for each key, and keeps them on the stack.)
  template <int kScale>
  [[gnu::always_inline]] static __m128 low(const float* from, std::int64_t step) {
    __m128 x;
    asm volatile("vmovups (%1,%2,%c3), %0" : "=x"(x) : "r"(from), "r"(step), "i"(kScale));
    return x;
  }
  template <int kScale>
  [[gnu::always_inline]] static __m256 high(const float* from, std::int64_t step) {
    __m256 x;
    asm volatile("vbroadcastf128 (%1,%2,%c3), %0" : "=x"(x) : "r"(from), "r"(step), "i"(kScale));
    return x;
  }
  /// One key in the lower half, the other in the upper one. (A broadcast and a blend, as in
  /// x86_avx2_transpose.h.)
  [[gnu::always_inline]] static __m256 join(__m128 low, __m256 high) {
    return _mm256_blend_ps(_mm256_castps128_ps256(low), high, 0xf0);
  }
};

}  // namespace
}  // namespace kumiko::kernels
