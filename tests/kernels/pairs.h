// SPDX-License-Identifier: Apache-2.0
// A step of two bf16 elements as kernels/gemm/gemm.h defines it, in scalar arithmetic.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/element.h"

namespace kumiko::test {

inline float zero_if_subnormal(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

/// Element 0 or 1 of a step.
inline float element_of_pair(float pair, int which) {
  const auto bits = std::bit_cast<std::uint32_t>(pair);
  return kernels::to_float(kernels::Bf16{static_cast<std::uint16_t>(which == 1 ? bits >> 16 : bits)});
}

inline float pair_of(float first, float second) {
  kernels::Bf16 low, high;
  kernels::from_float(first, &low), kernels::from_float(second, &high);
  return std::bit_cast<float>(static_cast<std::uint32_t>(high.bits) << 16 | low.bits);
}

/// sum + a b; the product of the second elements is added before that of the first.
inline float add_pair_product(float a, float b, float sum) {
  sum = zero_if_subnormal(sum);
  for (const int which : {1, 0}) {
    const float x = zero_if_subnormal(element_of_pair(a, which)),
                y = zero_if_subnormal(element_of_pair(b, which));
    sum = zero_if_subnormal(std::fma(x, y, sum));
  }
  return sum;
}

}  // namespace kumiko::test
