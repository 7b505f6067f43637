// SPDX-License-Identifier: Apache-2.0
// Names that many tests need.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace kumiko::test {

inline constexpr float kInf = std::numeric_limits<float>::infinity();
inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

/// Whether an error is worse than the worst so far. NaN is worse than every number, and stays the worst.
inline bool is_worse(double error, double worst) {
  return !std::isnan(worst) && !(error <= worst);
}
inline std::size_t sz(std::int64_t n) {
  return static_cast<std::size_t>(n);
}
inline std::int64_t round_up(std::int64_t n, std::int64_t to) {
  return (n + to - 1) / to * to;
}

}  // namespace kumiko::test
