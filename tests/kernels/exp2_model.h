// SPDX-License-Identifier: Apache-2.0
// 2^x and tanh in scalar C++, operation for operation as kernels/simd/exp2.h and tanh.h state them for an
// ISA.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/cpu.h"
#include "kernels/simd/scalar.h"

namespace kumiko::test {

/// The FEXPA instruction on a sum with kFexpaShift: six bits choose the fraction of 2^(i/64), eight are the
/// exponent.
inline float fexpa_model(float sum) {
  static const auto fractions = [] {
    std::array<std::uint32_t, 64> table{};
    for (std::size_t i = 0; i < table.size(); ++i)
      table[i] = std::bit_cast<std::uint32_t>(static_cast<float>(std::exp2(static_cast<double>(i) / 64))) &
                 0x7fffffu;
    return table;
  }();
  const auto bits = std::bit_cast<std::uint32_t>(sum);
  return std::bit_cast<float>((bits >> 6 & 0xffu) << 23 | fractions[bits & 63u]);
}

/// In the state of float_state.h: subnormal intermediate values become 0.
inline float exp2_fexpa_model(float x) {
  if (x < kernels::kFexpaLowest) x = kernels::kFexpaLowest;
  const float z = x + kernels::kFexpaShift, r = x - (z - kernels::kFexpaShift), scale = fexpa_model(z);
  return std::fma(scale, std::fma(r, kernels::kFexpaPoly[1], kernels::kFexpaPoly[0]) * r, scale);
}

/// 2^(s - b + 15) as softmax/arm_sve512_half.h has it.
inline float half_fexpa_model(float s, float b) {
  const bool is_large = std::abs(b) >= 0x1p22f;
  const float from = is_large ? s - b : s, to = is_large ? 0.0f : b;
  const float raised = from < to - 29.0f ? to - 29.0f : from, shift = (kernels::kFexpaShift + 15.0f) - to;
  const float z = raised + shift, r = raised - (z - shift), power = fexpa_model(z);
  return std::fma(power, r * kernels::kHalfFexpaPoly, power);
}

inline bool uses_fexpa(kernels::Isa isa) {
  return isa == kernels::Isa::sve512;
}
inline float exp2_model(kernels::Isa isa, float x) {
  return uses_fexpa(isa) ? exp2_fexpa_model(x) : kernels::exp2_scalar(x);
}
inline float tanh_model(kernels::Isa isa, float x) {
  return kernels::tanh_scalar(x, [isa](float e) { return exp2_model(isa, e); });
}

}  // namespace kumiko::test
