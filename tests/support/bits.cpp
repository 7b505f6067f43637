// SPDX-License-Identifier: Apache-2.0
#include "tests/support/bits.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>

namespace kumiko::test {
namespace {

// Floats in order on the integer line: -0 and +0 are both 0, and each representable value is one step.
std::int64_t ordinal(float x) {
  const auto bits = std::bit_cast<std::int32_t>(x);
  return bits >= 0 ? bits : -static_cast<std::int64_t>(bits & 0x7FFFFFFF);
}

}  // namespace

std::int64_t ulp_distance(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::numeric_limits<std::int64_t>::max();
  return std::abs(ordinal(a) - ordinal(b));
}

::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> want) {
  if (got.size() != want.size())
    return ::testing::AssertionFailure() << got.size() << " values against " << want.size();
  if (got.empty() || std::memcmp(got.data(), want.data(), got.size_bytes()) == 0)
    return ::testing::AssertionSuccess();
  std::size_t first = got.size(), worst = 0, count = 0;
  std::int64_t worst_ulp = -1;
  for (std::size_t i = 0; i < got.size(); ++i) {
    if (std::bit_cast<std::uint32_t>(got[i]) == std::bit_cast<std::uint32_t>(want[i])) continue;
    if (count++ == 0) first = i;
    if (const std::int64_t ulp = ulp_distance(got[i], want[i]); ulp > worst_ulp) worst_ulp = ulp, worst = i;
  }
  return ::testing::AssertionFailure()
         << count << " of " << got.size() << " values differ; first at " << first << ": got " << std::hexfloat
         << got[first] << ", want " << want[first] << std::defaultfloat << "; worst at " << worst << ": got "
         << got[worst] << ", want " << want[worst] << " (" << worst_ulp << " ulp)";
}

}  // namespace kumiko::test
