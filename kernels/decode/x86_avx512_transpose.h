// SPDX-License-Identifier: Apache-2.0
// transpose.h for AVX-512: four pieces of four rows each, transposed within their 128-bit quarters, then
// four that gather one quarter of every row.
#pragma once

#include <type_traits>

#include "kernels/decode/transpose.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {
namespace {

/// The pieces; `finish` takes step i, i + 4, i + 8 and i + 12 of a block of 32-bit elements.
struct QuarterTranspose {
  static constexpr int kPieces = 8;
  __m512 x[16];

  template <int kPiece, class T, class Finish>
  [[gnu::always_inline]] void piece(const T* keys, std::int64_t stride, Finish finish) {
    if constexpr (kPiece < 4) {
      const T* rows = keys + 4 * kPiece * stride;
      asm("" : "+r"(rows));  // Otherwise g++ keeps 16 row addresses, most of them in vector registers.
      __m512* const to = x + 4 * kPiece;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) to[i] = Avx512::load(reinterpret_cast<const float*>(rows + i * stride));
      Avx512::transpose_quarters(to[0], to[1], to[2], to[3]);
    } else {
      constexpr int kColumn = kPiece - 4;
      __m512 y[4] = {x[kColumn], x[kColumn + 4], x[kColumn + 8], x[kColumn + 12]};
      Avx512::gather_quarters(y[0], y[1], y[2], y[3]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) finish(kColumn + 4 * i, y[i]);
    }
  }
};

/// f32, and pairs where they are multiplied as such.
template <class V, class T>
requires std::is_base_of_v<Avx512, V>
struct Transpose<V, T> : QuarterTranspose, StepTile<V> {
  static constexpr std::int64_t kDims = kElements<V>;
  static constexpr int kSteps = 16, kRows = 16;

  template <int kPiece>
  [[gnu::always_inline]] void piece(const T* keys, std::int64_t stride, float* tile, std::int64_t step) {
    QuarterTranspose::piece<kPiece>(keys, stride, [&](int i, __m512 y) { V::store(tile + i * step, y); });
  }
};

/// bf16 with f32 products: transposed in pairs of dims, with half the shuffles of single ones.
template <>
struct Transpose<Avx512, Bf16> : QuarterTranspose, PairTile<Avx512> {
  static constexpr std::int64_t kDims = 32;
  static constexpr int kSteps = 32, kRows = 16;

  template <int kPiece>
  [[gnu::always_inline]] void piece(const Bf16* keys, std::int64_t stride, float* tile, std::int64_t step) {
    QuarterTranspose::piece<kPiece>(keys, stride,
                                    [&](int i, __m512 y) { Avx512::store(tile + i * step, y); });
  }
};

/// The same for f16, sorted into even and odd dims; they are widened when they are loaded to be multiplied.
template <>
struct Transpose<Avx512, F16> : QuarterTranspose, TwoStepTile<Avx512> {
  static constexpr std::int64_t kDims = 32;
  static constexpr int kSteps = 32, kRows = 16;

  template <int kPiece>
  [[gnu::always_inline]] void piece(const F16* keys, std::int64_t stride, F16* tile, std::int64_t step) {
    const __m512i order = _mm512_set_epi16(31, 29, 27, 25, 23, 21, 19, 17, 15, 13, 11, 9, 7, 5, 3, 1,  //
                                           30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    QuarterTranspose::piece<kPiece>(keys, stride, [&](int i, __m512 y) {
      _mm512_storeu_si512(tile + i * step, _mm512_permutexvar_epi16(order, _mm512_castps_si512(y)));
    });
  }
};

}  // namespace
}  // namespace kumiko::kernels
