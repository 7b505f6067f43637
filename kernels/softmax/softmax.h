// SPDX-License-Identifier: Apache-2.0
// Softmax of a score tile with the queries in the lanes: every step is a vertical vector operation.
//
//   S^T, then P^T in place: [kv][nr] row-major, nr queries (a multiple of the ISA's lanes)
//   Scores are already multiplied by scale * log2(e).
//
// Order of arithmetic per query: m' = max(m, block_max); alpha = 2^(m - m'); l = l * alpha, then l += 2^(s_j
// - m') for j = 0, 1, ... m' = -inf (nothing seen yet, or only -inf scores) is taken as 0 in the exponents,
// so that such a query keeps l = 0.
//
// Product bf16 (gemm.h): scores are not scaled yet, s_j = round(s_j * scale) where s_j goes into the maximum
// and, fused, fma(s_j, scale, -m') where it goes into an exponent; P is rounded to bf16, [ceil(kv / 2)][nr]
// pairs of keys 2j and 2j + 1 (absent: 0) in the place of the first rows of S^T; l sums the rounded P in the
// order of a step of gemm.h, so that l is the sum of the weights that are used.
//
// Product f16: m is a reference, not the maximum, and a whole number, so that its powers of two are exact. b
// = block_max rounded up to a whole number, p_j = 2^(s_j - b); S = the sum of p_j * 2^23 rounded to whole
// numbers (so that the order of addition does not matter), e = floor(log2 S) - 23, or 0 if S is 0. Then m' =
// max(m, b - (6 - e)), alpha as above, P_j = f16(p_j) * 2^(b - m'), or 0 where that is below 2^-14, [kv][nr]
// f16 in the place of the first rows of S^T; l = fma(S, 2^(b - m' - 23), l * alpha), or NaN if a P is NaN. So
// the P of a block add up to at most 128 and l, once a key is seen, is never below 64: no sum of 256 products
// with values up to kHalfValueLimit (pack.h) overflows, and what P loses below 2^-14 is at most 2^-11 of a
// split's weights, whatever its length.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

inline constexpr float kMinusInfinity = -__builtin_inff();

struct SoftmaxArgs {
  float* s;          ///< [kv][nr]
  std::int64_t kv;   ///< >= 1
  std::int64_t nr;   ///< 1, 2 or 3 times the lanes
  float* block_max;  ///< [nr] largest visible score of each query in this tile, -inf if none. mask_scores
                     ///< raises it.
  float* m;          ///< [nr] running maximum, log2 units; updated
  float* l;          ///< [nr] running sum; updated
  float* alpha;  ///< [nr] out: factor for what was accumulated under the old maximum, in [0, 1]; 1 exactly if
                 ///< m did not move
  float scale = 1.0f;  ///< > 0; product bf16 only
};

/// Rows first <= j < first + kv of the tile: scores outside the query's [begin, end) become -inf, the others
/// raise block_max. `s` points at row `first`; begin, end: [nr] in the numbering of j.
struct MaskArgs {
  float* s;
  std::int64_t kv;
  std::int64_t nr;
  std::int32_t first;
  const std::int32_t* begin;
  const std::int32_t* end;
  float* block_max;
};

struct SoftmaxKernel {
  const char* name;
  Isa isa;
  Element product;  ///< what P is written for
  int lanes;
  void (*mask_scores)(const MaskArgs&) noexcept;
  void (*probabilities)(const SoftmaxArgs&) noexcept;
  /// P where there is no softmax. Product f32: S as it is, and alpha 1. Product f16: 2^(e - 1) is the least
  /// power of two above the largest finite |s_j|, but e is at most 126, and -inf if all are 0. m' = max(m,
  /// e); P_j = f16(s_j * 2^-m'), at most 1/2 unless e is 126, and 0 where that is below 2^-14; alpha as
  /// above; l is unchanged. (Product bf16: not called.)
  void (*weights)(const SoftmaxArgs&) noexcept;
  /// y[i] = 2^x[i] for x <= 0, n a multiple of lanes: the function that probabilities() uses (bound in
  /// simd/exp2.h).
  void (*exp2)(const float* x, float* y, std::int64_t n) noexcept;
};

std::span<const SoftmaxKernel> softmax_kernels();
const SoftmaxKernel* find_softmax(Isa isa, Element product = Element::f32);

}  // namespace kumiko::kernels
