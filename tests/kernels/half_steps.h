// SPDX-License-Identifier: Apache-2.0
// Scalar f16 for the models of product f16.
#pragma once

#include <cmath>

#include "kernels/float_state.h"
#include "kernels/simd/half_scalar.h"
#include "tests/support/random.h"

namespace kumiko::test {

inline kernels::F16 half_of(float x) {
  kernels::F16 half;
  kernels::from_float(x, &half);
  return half;
}

/// An f16 operand or result of an ISA that takes subnormals for 0.
inline double kept_half(kernels::Isa isa, double x) {
  return kernels::flushes_subnormals(isa) && std::abs(x) < 0x1p-14 ? std::copysign(0.0, x) : x;
}

/// a * b + c, rounded once.
inline kernels::F16 half_step(kernels::Isa isa, kernels::F16 a, kernels::F16 b, kernels::F16 c) {
  const auto value = [&](kernels::F16 x) {
    return kept_half(isa, static_cast<double>(kernels::to_float(x)));
  };
  return kernels::round_to_half(kept_half(isa, value(a) * value(b) + value(c)));
}

/// a + b, rounded once.
inline kernels::F16 half_sum(kernels::Isa isa, kernels::F16 a, kernels::F16 b) {
  return half_step(isa, half_of(1.0f), a, b);
}

/// A number, at times one that f16 finds hard.
inline kernels::F16 half_draw(Random& random) {
  if (random.one_in(20)) return half_of(random.pick({0.0f, -0.0f, 0x1p-14f, 0x1p-20f, -200.0f}));
  return half_of(random.normal());
}

}  // namespace kumiko::test
