// SPDX-License-Identifier: Apache-2.0
// Steps of softmax.h's product f16 that several files have in common.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/softmax/softmax.h"

namespace kumiko::kernels {

inline constexpr float kHalfSumOne = 0x1p16f;        ///< A probability of 1 in the sum of a block.
inline constexpr float kHalfLeastWeight = 0x1p-14f;  ///< Smaller ones would be subnormal in f16.

namespace {  // as in the vector types' headers: one copy per ISA file

/// What is between a block's largest score and the reference it asks for.
inline float half_headroom(std::uint32_t sum) {
  const int exponent = sum == 0 ? 0 : 31 - __builtin_clz(sum) - 16;
  return static_cast<float>(6 - exponent);
}

/// P as f16 has it, in f32.
inline float half_weight(float p) {
  if (p > -kHalfLeastWeight && p < kHalfLeastWeight) return 0.0f;
  F16 rounded;
  from_float(p, &rounded);
  return to_float(rounded);
}

}  // namespace
}  // namespace kumiko::kernels
