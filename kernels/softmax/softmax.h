// SPDX-License-Identifier: Apache-2.0
// Softmax of a score tile with the queries in the lanes: every step is a vertical vector operation.
//
//   S^T, then P^T in place: [kv][nr] row-major, nr queries (a multiple of the ISA's lanes)
//   Scores come times scale * log2(e).
//
// Order of arithmetic per query: m' = max(m, block_max); alpha = 2^(m - m'); l = l * alpha, then l += 2^(s_j
// - m') for j = 0, 1, ... m' = -inf (nothing seen yet, or only -inf scores) is taken as 0 in the exponents,
// so that such a query keeps l = 0.
//
// Product bf16 (gemm.h): scores are not scaled yet, s_j = round(s_j * scale) where s_j goes into the
// maximum and, fused, fma(s_j, scale, -m') where it goes into an exponent; P is rounded to bf16, [ceil(kv /
// 2)][nr] pairs of keys 2j and 2j + 1 (absent: 0) in the place of the first rows of S^T; l sums the rounded P
// in the order of a step of gemm.h, so that weights and their sum are of the same numbers.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

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
  /// y[i] = 2^x[i] for x <= 0, n a multiple of lanes: the function that probabilities() uses (bound in
  /// simd/exp2.h).
  void (*exp2)(const float* x, float* y, std::int64_t n) noexcept;
};

std::span<const SoftmaxKernel> softmax_kernels();
const SoftmaxKernel* find_softmax(Isa isa, Element product = Element::f32);

}  // namespace kumiko::kernels
