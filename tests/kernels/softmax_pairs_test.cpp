// SPDX-License-Identifier: Apache-2.0
// Softmax rows that write probabilities as bf16 pairs: the exponential's bound, and the tile against a scalar
// walk in the order of kernels/softmax/softmax.h, bit for bit.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "kernels/softmax/softmax.h"
#include "tests/kernels/pairs.h"
#include "tests/kernels/rows.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::SoftmaxKernel;

struct SoftmaxPairs : ::testing::TestWithParam<SoftmaxKernel> {
  const SoftmaxKernel& row = GetParam();
  float exp2(float x) const {
    float in[16] = {x}, out[16];
    row.exp2(in, out, 16);
    return out[0];
  }
};

// kernels/simd/avx512_bf16.h
constexpr double kStatedRelativeError = 1.1e-4;

TEST_P(SoftmaxPairs, ExponentialStaysWithinTheStatedBound) {
  double worst = 0;
  float witness = 0;
  std::vector<float> x(4096), y(4096);
  const auto last = std::bit_cast<std::uint32_t>(126.0f);
  for (std::uint32_t at = std::bit_cast<std::uint32_t>(0x1p-20f); at < last;) {
    for (float& v : x) v = -std::bit_cast<float>(std::min(at, last)), at += 101;
    row.exp2(x.data(), y.data(), 4096);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double want = std::exp2(static_cast<double>(x[i])), error = std::abs(y[i] - want) / want;
      if (is_worse(error, worst)) worst = error, witness = x[i];
      ASSERT_LE(y[i], 1.0f);
    }
  }
  std::printf("%s: worst relative error %.3e at x = %a\n", row.name, worst, static_cast<double>(witness));
  EXPECT_LE(worst, kStatedRelativeError) << "witness " << std::hexfloat << witness;
}

TEST_P(SoftmaxPairs, ExponentialIsExactAtWholeNumbersUnderflowsToZeroAndKeepsNan) {
  for (int n = 0; n <= 126; ++n) EXPECT_EQ(exp2(static_cast<float>(-n)), std::ldexp(1.0f, -n));
  for (const float x : {std::nextafter(-126.0f, -kInf), -150.0f, -std::numeric_limits<float>::max(), -kInf})
    EXPECT_EQ(std::bit_cast<std::uint32_t>(exp2(x)), 0u) << x;
  EXPECT_TRUE(std::isnan(exp2(std::numeric_limits<float>::quiet_NaN())));
}

TEST_P(SoftmaxPairs, TilesEqualTheScalarWalk) {
  Random random(test_seed(37));
  const SoftmaxKernel& reference = *kernels::find_softmax(kernels::Isa::reference);
  for (std::size_t vectors = 1; vectors <= 3; ++vectors) {
    for (const std::size_t kv : {1u, 2u, 3u, 8u, 65u, 256u}) {
      for (const Place place : kPlaces) {
        const std::size_t nr = vectors * static_cast<std::size_t>(row.lanes), pairs = (kv + 1) / 2;
        SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " kv " << kv);
        Operand<float> s(kv * nr, place), top(nr, place), m(nr, place), l(nr, place), alpha(nr, place);
        const float scale = random.pick({1.0f, 0.18f, 3.0f});
        for (std::size_t n = 0; n < nr; ++n) {
          // Ordinary, first block, no key seen so far, maximum unchanged, maximum far higher, all -inf, NaN.
          const std::size_t part = n % 7;
          m[n] = part == 1 || part == 2 || part == 5 ? -kInf : part == 3 ? 1000.0f : random.normal();
          l[n] = m[n] == -kInf ? 0.0f : 1.0f + std::abs(random.normal());
          top[n] = -kInf;
          for (std::size_t j = 0; j < kv; ++j) {
            float& x = s[j * nr + n];
            x = 8 * random.normal() + (part == 4 ? 300.0f : 0.0f);
            if (part == 2 || part == 5 || random.one_in(8)) x = -kInf;
            if (part == 6 && j == kv / 2) x = std::numeric_limits<float>::quiet_NaN();
            if (x > top[n]) top[n] = x;
          }
        }
        std::vector<float> want(pairs * nr), want_m(nr), want_l(nr), want_alpha(nr);
        for (std::size_t n = 0; n < nr; ++n) {
          want_m[n] = std::max(m[n], top[n] * scale);
          const float shift = want_m[n] == -kInf ? 0.0f : want_m[n];
          float in[16] = {m[n] - shift}, out[16];
          reference.exp2(in, out, 8);
          want_alpha[n] = out[0];
          want_l[n] = l[n] * want_alpha[n];
          for (std::size_t j = 0; j < pairs; ++j) {
            const auto p = [&](std::size_t key) {
              return key < kv ? exp2(std::fma(s[key * nr + n], scale, -shift)) : 0.0f;
            };
            want[j * nr + n] = pair_of(p(2 * j), p(2 * j + 1));
            want_l[n] = add_pair_product(want[j * nr + n], pair_of(1.0f, 1.0f), want_l[n]);
          }
        }
        row.probabilities({s.data(), static_cast<std::int64_t>(kv), static_cast<std::int64_t>(nr), top.data(),
                           m.data(), l.data(), alpha.data(), scale});
        for (std::size_t i = 0; i < want.size(); ++i) {
          for (const int which : {0, 1})
            ASSERT_TRUE(same_value(element_of_pair(s[i], which), element_of_pair(want[i], which)))
                << "P[" << i << "] element " << which;
        }
        for (std::size_t n = 0; n < nr; ++n) {
          ASSERT_TRUE(same_value(m[n], want_m[n])) << "m[" << n << "]";
          ASSERT_TRUE(same_value(l[n], want_l[n])) << "l[" << n << "] " << l[n] << ", want " << want_l[n];
          ASSERT_TRUE(same_value(alpha[n], want_alpha[n])) << "alpha[" << n << "]";
        }
        ASSERT_TRUE(s.intact() && top.intact() && m.intact() && l.intact() && alpha.intact());
      }
    }
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SoftmaxPairs);  // a machine without bf16 products has no row
INSTANTIATE_TEST_SUITE_P(Rows, SoftmaxPairs,
                         ::testing::ValuesIn(host_rows(kernels::softmax_kernels(), kernels::Element::bf16)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
