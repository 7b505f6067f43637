// SPDX-License-Identifier: Apache-2.0
// A step of f16 arithmetic in plain C++, rounded once; the reference rows use it. Subnormals are kept.
#pragma once

#include <bit>
#include <cstdint>

#include "kernels/element.h"

namespace kumiko::kernels {
namespace {

// f64 to f16, one rounding to nearest even.
inline F16 round_to_half(double x) {
  const std::uint64_t bits = std::bit_cast<std::uint64_t>(x), magnitude = bits & ~(std::uint64_t{1} << 63);
  std::uint64_t half = 0;
  if (magnitude > 0x7ff0000000000000u) {
    half = 0x7e00u;
  } else if (magnitude >=
             0x40f0000000000000u) {  // 2^16 and more; values that round up to 2^16 take the next branch
    half = 0x7c00u;
  } else if (magnitude >= 0x3f10000000000000u) {  // 2^-14: normal
    half =
        (magnitude - (std::uint64_t{1008} << 52) + ((std::uint64_t{1} << 41) - 1) + (magnitude >> 42 & 1u)) >>
        42;
  } else {  // 2^28 has an ulp of 2^-24: the sum rounds to a multiple of the smallest subnormal
    constexpr double kRounder = 0x1p28;
    half = std::bit_cast<std::uint64_t>(std::bit_cast<double>(magnitude) + kRounder) -
           std::bit_cast<std::uint64_t>(kRounder);
  }
  return {static_cast<std::uint16_t>(half | (bits >> 48 & 0x8000u))};
}

// a * b + c, one rounding to f16. In f64 the product is exact, and so is the sum unless one summand is 2^30
// times the other: then the sum is far from every tie of f16, and its f64 rounding does not affect the
// result.
inline F16 fused(F16 a, F16 b, F16 c) {
  return round_to_half(static_cast<double>(to_float(a)) * to_float(b) + to_float(c));
}

inline F16 added(F16 a, F16 b) {
  return round_to_half(static_cast<double>(to_float(a)) + to_float(b));
}

}  // namespace
}  // namespace kumiko::kernels
