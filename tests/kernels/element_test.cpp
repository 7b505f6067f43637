// SPDX-License-Identifier: Apache-2.0
// The 16-bit element types against arithmetic in double that shares no code with them.
#include "kernels/element.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::Bf16;
using kernels::F16;

struct Format {
  int exponent_bits, fraction_bits;
};
constexpr Format kBf16Format{8, 7}, kF16Format{5, 10};

// The value of a bit pattern, by the definition of IEEE 754 formats.
double value_of(std::uint16_t bits, Format f) {
  const int bias = (1 << (f.exponent_bits - 1)) - 1;
  const int exponent = bits >> f.fraction_bits & ((1 << f.exponent_bits) - 1);
  const int fraction = bits & ((1 << f.fraction_bits) - 1);
  const double sign = bits & 0x8000 ? -1.0 : 1.0;
  if (exponent == (1 << f.exponent_bits) - 1)
    return fraction ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  const double significand = (exponent ? 1 << f.fraction_bits : 0) + fraction;
  return sign * std::ldexp(significand, (exponent ? exponent : 1) - bias - f.fraction_bits);
}

// Nearest value of the format, ties to the even pattern, found by comparing both neighbours.
template <class T>
void expect_nearest(float x, Format f) {
  T got;
  kernels::from_float(x, &got);
  if (std::isnan(x)) {
    EXPECT_TRUE(std::isnan(value_of(got.bits, f))) << x;
    EXPECT_TRUE(got.bits & 1 << (f.fraction_bits - 1)) << "signalling";
    return;
  }
  const double exact = x, value = value_of(got.bits, f);
  const std::uint16_t largest =
      static_cast<std::uint16_t>(((1 << f.exponent_bits) - 1) << f.fraction_bits) - 1;
  const double top = value_of(largest, f), ulp = top - value_of(static_cast<std::uint16_t>(largest - 1), f);
  if (std::abs(exact) >= top + ulp / 2) {
    EXPECT_EQ(value, std::copysign(std::numeric_limits<double>::infinity(), exact)) << x;
    return;
  }
  EXPECT_EQ(std::signbit(value), std::signbit(exact)) << x;
  const double error = std::abs(value - exact);
  for (const int step : {-1, 1}) {
    const auto neighbour = static_cast<std::uint16_t>(got.bits + step);
    if ((neighbour ^ got.bits) & 0x8000) continue;  // past zero
    const double other = std::abs(value_of(neighbour, f) - exact);
    EXPECT_TRUE(error < other || (error == other && got.bits % 2 == 0)) << x << " became " << value;
  }
}

template <class T>
void check_all_patterns(Format f) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const T x{static_cast<std::uint16_t>(bits)};
    const float wide = kernels::to_float(x);
    const double want = value_of(x.bits, f);
    if (std::isnan(want)) {
      ASSERT_TRUE(std::isnan(wide));
      continue;
    }
    ASSERT_EQ(static_cast<double>(wide), want) << bits;
    ASSERT_EQ(std::signbit(wide), std::signbit(want)) << bits;
    T back;
    kernels::from_float(wide, &back);
    ASSERT_EQ(back.bits, x.bits);
  }
}

template <class T>
void check_rounding(Format f) {
  Random random(test_seed(71));
  for (int i = 0; i < 300'000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random.bits()));
    expect_nearest<T>(x, f);
    if (::testing::Test::HasFailure()) return;
  }
  // Every midpoint between neighbours, and the floats on either side of it.
  for (std::uint32_t bits = 0; bits < 0x7fff; ++bits) {
    const double a = value_of(static_cast<std::uint16_t>(bits), f),
                 b = value_of(static_cast<std::uint16_t>(bits + 1), f);
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    const float middle = static_cast<float>((a + b) / 2);
    for (const float x : {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 1e38f), -middle})
      expect_nearest<T>(x, f);
    if (::testing::Test::HasFailure()) return;
  }
}

TEST(Elements, Bf16WidensExactly) {
  check_all_patterns<Bf16>(kBf16Format);
}
TEST(Elements, F16WidensExactly) {
  check_all_patterns<F16>(kF16Format);
}
// As the conversions of the processors do (VCVTPH2PS, FCVT).
TEST(Elements, F16SignallingNansWidenToQuietOnes) {
  for (const unsigned bits : {0x7c01u, 0xfc01u, 0x7dffu, 0x7e00u, 0xffffu}) {
    const float wide = kernels::to_float(F16{static_cast<std::uint16_t>(bits)});
    EXPECT_EQ(std::bit_cast<std::uint32_t>(wide) & 0x7fc00000u, 0x7fc00000u) << std::hex << bits;
  }
}
TEST(Elements, Bf16RoundsToNearestEven) {
  check_rounding<Bf16>(kBf16Format);
}
TEST(Elements, F16RoundsToNearestEven) {
  check_rounding<F16>(kF16Format);
}

}  // namespace
}  // namespace kumiko::test
