// SPDX-License-Identifier: Apache-2.0
// Steps of softmax.h's product f16 that several files have in common.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/softmax/softmax.h"

namespace kumiko::kernels {

inline constexpr float kHalfLeastWeight = 0x1p-14f;  ///< Smaller weights would be subnormal in f16.
/// Exponentials are 2^15 times as large until their reference is known: f16 then has 29 binades below 1.
inline constexpr int kHalfExponent = 15;
/// The sum of this and an exponential has, in its last bits, the exponential without the factor 2^15 as a
/// whole number of 2^-23.
inline constexpr float kHalfSumShift = 0x1p15f;
inline constexpr std::uint32_t kHalfSumBits = std::bit_cast<std::uint32_t>(kHalfSumShift);
inline constexpr int kHalfSumPlaces = 23;
/// Exponents below this one give 0 whatever the exponential is.
inline constexpr float kHalfLeastExponent = -64.0f;

namespace {  // as in the vector types' headers: one copy per ISA file

/// How far below its b a block puts m: 6 - e of softmax.h.
inline float half_headroom(std::uint32_t sum) {
  const int exponent = sum == 0 ? 0 : 31 - __builtin_clz(sum) - kHalfSumPlaces;
  return static_cast<float>(6 - exponent);
}

/// P as an f32 with the value that f16 gives it: rounded, and 0 below kHalfLeastWeight. A zero keeps its
/// sign.
inline float half_weight(float p) {
  if (p > -kHalfLeastWeight && p < kHalfLeastWeight) return __builtin_copysignf(0.0f, p);
  F16 rounded;
  from_float(p, &rounded);
  return to_float(rounded);
}

}  // namespace
}  // namespace kumiko::kernels
