// SPDX-License-Identifier: Apache-2.0
// Scalar models of simd/exp2.h and simd/tanh.h, operation for operation; the reference rows use them.
#pragma once

#include <cmath>

#include "kernels/simd/exp2.h"
#include "kernels/simd/tanh.h"

namespace kumiko::kernels {

[[gnu::always_inline]] inline float exp2_scalar(float x) {
  if (x < kExp2Underflow) return 0.0f;
  const float n = std::nearbyint(x);
  const float f = x - n;
  float p = kExp2Poly[6];
  for (int i = 5; i >= 0; --i) p = std::fma(p, f, kExp2Poly[i]);
  return std::isnan(x) ? x : std::ldexp(p, static_cast<int>(n));
}

/// With the given exp2.
template <class Exp2>
float tanh_scalar(float x, Exp2 exp2) {
  const float y = std::fabs(x), z = x * x;
  float p = kTanhPoly[4];
  for (int i = 3; i >= 0; --i) p = std::fma(p, z, kTanhPoly[i]);
  if (y < kTanhLimit) return std::fma(x * z, p, x);
  const float e = exp2(y * kTanhExponent);
  return std::copysign((1.0f - e) / (1.0f + e), x);
}
inline float tanh_scalar(float x) {
  return tanh_scalar(x, exp2_scalar);
}

}  // namespace kumiko::kernels
