// SPDX-License-Identifier: Apache-2.0
// Comparison of results bit for bit, with a message that names the first difference.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <span>

namespace kumiko::test {

/// Units in the last place between two finite floats of any sign; INT64_MAX if either is NaN.
std::int64_t ulp_distance(float a, float b);

/// memcmp equality of two float arrays (a NaN equals only the same NaN). On failure: how many differ, the
/// first index, the worst in ulp.
::testing::AssertionResult same_bits(std::span<const float> got, std::span<const float> want);

}  // namespace kumiko::test
