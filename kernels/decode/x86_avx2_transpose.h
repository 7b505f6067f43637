// SPDX-License-Identifier: Apache-2.0
// transpose.h for 16-bit elements on AVX2, in two pieces: the halves of each row. A half is put beside that
// of the row four below by a broadcast and a blend, which every port can do; a shuffle across halves can use
// few ports and competes with the products.
#pragma once

#include "kernels/decode/transpose.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {
namespace {

/// x[j] lane i = 32 bits j of half kHalf of row i.
template <int kHalf, class T>
[[gnu::always_inline]] inline void load_half_transposed(__m256 (&x)[4], const T* keys, std::int64_t stride) {
  const T *above = keys, *below = keys + 4 * stride;
  asm("" : "+r"(above), "+r"(below));  // Otherwise g++ keeps 8 row addresses.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const auto* a = reinterpret_cast<const float*>(above + i * stride);
    const auto* b = reinterpret_cast<const float*>(below + i * stride);
    if constexpr (kHalf == 0) {
      x[i] =
          _mm256_blend_ps(_mm256_loadu_ps(a), _mm256_broadcast_ps(reinterpret_cast<const __m128*>(b)), 0xf0);
    } else {
      x[i] = _mm256_blend_ps(_mm256_loadu_ps(b), _mm256_broadcast_ps(reinterpret_cast<const __m128*>(a + 4)),
                             0x0f);
    }
  }
  Avx2::transpose_halves(x[0], x[1], x[2], x[3]);
}

/// bf16: transposed in pairs of dims, with half the shuffles of single ones.
template <>
struct Transpose<Avx2, Bf16> : PairTile<Avx2> {
  static constexpr int kPieces = 2;
  static constexpr std::int64_t kDims = 16;
  static constexpr int kSteps = 16, kRows = 8;

  template <int kPiece>
  [[gnu::always_inline]] void piece(const Bf16* keys, std::int64_t stride, float* tile, std::int64_t step) {
    __m256 x[4];
    load_half_transposed<kPiece>(x, keys, stride);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) Avx2::store(tile + (4 * kPiece + i) * step, x[i]);
  }
};

/// The same for f16, sorted into even and odd dims; they are widened when they are loaded to be multiplied.
template <>
struct Transpose<Avx2, F16> : TwoStepTile<Avx2> {
  static constexpr int kPieces = 2;
  static constexpr std::int64_t kDims = 16;
  static constexpr int kSteps = 16, kRows = 8;

  template <int kPiece>
  [[gnu::always_inline]] void piece(const F16* keys, std::int64_t stride, F16* tile, std::int64_t step) {
    const __m256i order = _mm256_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,  //
                                           0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
    __m256 x[4];
    load_half_transposed<kPiece>(x, keys, stride);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m256i sorted = _mm256_shuffle_epi8(_mm256_castps_si256(x[i]), order);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(tile + (4 * kPiece + i) * step),
                          _mm256_permute4x64_epi64(sorted, 0xd8));
    }
  }
};

}  // namespace
}  // namespace kumiko::kernels
