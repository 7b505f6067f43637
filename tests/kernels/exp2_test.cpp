// SPDX-License-Identifier: Apache-2.0
// exp2 of every softmax row over its whole range, against double exp2 (glibc: below 0.6 ULP of a double, 1e-9
// of a float's).
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "kernels/softmax/softmax.h"
#include "tests/kernels/exp2_model.h"
#include "tests/kernels/rows.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::SoftmaxKernel;

// The bounds stated in kernels/simd/exp2.h.
double stated_ulp(kernels::Isa isa) {
  return uses_fexpa(isa) ? 1.09 : 1.01;
}

struct Exp2 : RowTest<SoftmaxKernel> {
  std::vector<float> eval(std::vector<float> x) const {
    const std::size_t n = x.size();
    x.resize((n + 15) / 16 * 16, 0.0f);
    std::vector<float> y(x.size());
    GetParam().exp2(x.data(), y.data(), static_cast<std::int64_t>(x.size()));
    y.resize(n);
    return y;
  }
};

// Error in units of the last place of the correctly rounded result, for normal results.
double ulp_error(float got, double want) {
  int exponent = 0;
  std::frexp(static_cast<float>(want), &exponent);
  return std::abs(static_cast<double>(got) - want) / std::ldexp(1.0, exponent - 24);
}

// Steps through the negative floats from bit pattern `first` to `last` (ascending magnitudes), `step`
// patterns at a time.
struct Sweep {
  double worst = 0;
  float witness = 0;
  void run(const SoftmaxKernel& row, std::uint32_t first, std::uint32_t last, std::uint32_t step) {
    constexpr std::uint32_t kChunk = 4096;
    std::vector<float> x(kChunk), y(kChunk);
    for (std::uint64_t at = first; at <= last; at += std::uint64_t{kChunk} * step) {
      for (std::uint32_t i = 0; i < kChunk; ++i) {
        const auto magnitude =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(at + std::uint64_t{i} * step, last));
        x[i] = -std::bit_cast<float>(magnitude);
      }
      row.exp2(x.data(), y.data(), kChunk);
      for (std::uint32_t i = 0; i < kChunk; ++i) {
        const double error = ulp_error(y[i], std::exp2(static_cast<double>(x[i])));
        if (is_worse(error, worst)) worst = error, witness = x[i];
      }
    }
  }
};

// Every float of [-1, -2^-30] (closer to 0 the result is 1 to 2^-31), and every 61st of [-126, -1): there n
// only shifts the exponent of values that the first part has covered.
TEST_P(Exp2, StaysWithinTheStatedBoundOverTheWholeRange) {
  Sweep sweep;
  sweep.run(GetParam(), std::bit_cast<std::uint32_t>(0x1p-30f), std::bit_cast<std::uint32_t>(1.0f),
            thinned(1u, 61u, 601u));
  sweep.run(GetParam(), std::bit_cast<std::uint32_t>(1.0f), std::bit_cast<std::uint32_t>(126.0f),
            thinned(61u, 997u, 9973u));
  std::printf("%s: worst %.6f ULP at x = %a\n", GetParam().name, sweep.worst,
              static_cast<double>(sweep.witness));
  EXPECT_LE(sweep.worst, stated_ulp(row.isa)) << "witness " << std::hexfloat << sweep.witness;
}

TEST_P(Exp2, WholeNumbersAreExactAndZeroGivesOne) {
  std::vector<float> x;
  for (int n = 0; n <= 126; ++n) x.push_back(static_cast<float>(-n));
  x.push_back(-0.0f);
  const auto y = eval(x);
  for (int n = 0; n <= 126; ++n) EXPECT_EQ(y[static_cast<std::size_t>(n)], std::ldexp(1.0f, -n));
  EXPECT_EQ(y.back(), 1.0f);
}

TEST_P(Exp2, UnderflowsToPlusZeroAndKeepsNan) {
  // Results where FEXPA would wrap (below -127), and where its result is subnormal.
  const auto y = eval({std::nextafter(-126.0f, -kInf), -126.5f, -127.0f, -150.0f, -1e10f,
                       -std::numeric_limits<float>::max(), -kInf, std::numeric_limits<float>::quiet_NaN(),
                       -std::numeric_limits<float>::denorm_min()});
  for (std::size_t i = 0; i < 7; ++i) EXPECT_EQ(std::bit_cast<std::uint32_t>(y[i]), 0u) << i;
  EXPECT_TRUE(std::isnan(y[7]));
  EXPECT_EQ(y[8], 1.0f);
}

TEST_P(Exp2, NeverExceedsOneAndEqualsTheModelBitForBit) {
  Random random(test_seed(21));
  std::vector<float> x(1 << 16);
  for (float& value : x) {
    const auto bits = static_cast<std::uint32_t>(random.between(0, std::bit_cast<std::int32_t>(130.0f)));
    value = -std::bit_cast<float>(bits);
  }
  const auto y = eval(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    ASSERT_LE(y[i], 1.0f) << "x " << x[i];
    const float want = exp2_model(row.isa, x[i]);
    ASSERT_TRUE(same_value(y[i], want)) << "x " << x[i] << " gives " << y[i] << ", model " << want;
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Exp2,
                         ::testing::ValuesIn(host_rows(kernels::softmax_kernels(), kernels::Element::f32)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
