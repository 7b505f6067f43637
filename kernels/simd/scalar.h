// The scalar model of simd/exp2.h, operation for operation: what the reference rows compute with.
#pragma once

#include <cmath>

#include "kernels/simd/exp2.h"

namespace kumiko::kernels {

inline float exp2_scalar(float x) {
  if (x < kExp2Underflow) return 0.0f;
  const float n = std::nearbyint(x);
  const float f = x - n;
  float p = kExp2Poly[6];
  for (int i = 5; i >= 0; --i) p = std::fma(p, f, kExp2Poly[i]);
  return std::isnan(x) ? x : std::ldexp(p, static_cast<int>(n));
}

}  // namespace kumiko::kernels
