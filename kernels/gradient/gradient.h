// SPDX-License-Identifier: Apache-2.0
// The step between the products of the backward pass: probabilities from the row's log-sum-exp, and the
// gradient of the scores. Keys are in the lanes, so that a row is one query:
//   s'  = s, or -inf for a lane outside [begin, end)
//   p   = 2^(s' - lse)                 lse = -inf (the query sees nothing) is taken as 0
//   ds  = p * (dp - delta)
//   ds  = ds * fma(-t, t, 1)           with a softcap only: t = capped * inverse_cap
//   p   = ds = 0 where s' is -inf, whatever the rest is
// s' - lse is at most some rounding above 0, or NaN: the domain of simd/exp2.h. A row with a score of +inf
// has an lse of NaN. Scores and lse are in log2 units; ds is the gradient of the score in natural units,
// before the softcap.
//
// Product bf16 (gemm.h: pairs): p and ds are what the next products take, rounded to bf16, and scores are not
// scaled yet:
//   p   = 2^fma(s', scale, -lse)       relative error 1.1e-4, then rounded; ds is made of the unrounded p
// A pair is one lane of two rows, 2i and 2i + 1, the first in its lower half; a missing second row is 0.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

struct GradientArgs {
  float* s;   ///< [rows][nr] scores; becomes p (product bf16: [ceil(rows / 2)][nr] pairs)
  float* dp;  ///< [rows][nr] dO V^T; becomes ds (the same)
  std::int64_t rows;
  std::int64_t nr;            ///< a multiple of the lanes
  const float* lse;           ///< [rows]
  const float* delta;         ///< [rows]
  const std::int32_t* begin;  ///< [rows] the lanes that the query sees; nullptr: all
  const std::int32_t* end;    ///< [rows]
  const float* capped;        ///< [rows][nr] scores after the softcap and before other terms; nullptr: no cap
  float inverse_cap;
  float scale = 1.0f;                ///< product bf16
  std::uint16_t* ds_rows = nullptr;  ///< product bf16: [rows][nr], ds once more, row by row
};

struct GradientKernel {
  const char* name;
  Isa isa;
  Element product;
  int lanes;
  void (*scores)(const GradientArgs&) noexcept;
};

std::span<const GradientKernel> gradient_kernels();
/// nullptr if the ISA and its base have none.
const GradientKernel* find_gradient(Isa isa, Element product);

}  // namespace kumiko::kernels
