// SPDX-License-Identifier: Apache-2.0
// Every gradient row of f32 against the scalar steps of kernels/gradient/gradient.h, bit for bit.
#include "kernels/gradient/gradient.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/kernels/exp2_model.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::GradientKernel;

struct Gradient : RowTest<GradientKernel> {
  Random random{test_seed(61)};
  float score() { return random.one_in(25) ? kNan : random.one_in(25) ? -kInf : random.normal() - 3.0f; }
  float number() {
    return random.one_in(25) ? kNan : random.one_in(25) ? -kInf : random.one_in(40) ? kInf : random.normal();
  }
};

TEST_P(Gradient, FollowsTheStatedSteps) {
  for (int repeat = 0; repeat < thinned(300, 60, 20); ++repeat) {
    const std::int64_t nr = random.between(1, 3) * row.lanes, rows = random.between(1, 20);
    const Place place = random.pick({Place::front, Place::back, Place::misaligned});
    const bool has_interval = random.one_in(2), has_cap = random.one_in(2);
    SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " rows " << rows);
    const auto size = static_cast<std::size_t>(rows * nr), count = static_cast<std::size_t>(rows);
    Operand<float> s(size, place), dp(size, place), capped(size, place), lse(count, place),
        delta(count, place);
    Operand<std::int32_t> begin(count, place), end(count, place);
    for (std::size_t i = 0; i < size; ++i) s[i] = score(), dp[i] = number(), capped[i] = 20 * random.normal();
    for (std::size_t i = 0; i < count; ++i) {
      lse[i] = random.one_in(8) ? -kInf : 4.0f + random.normal(), delta[i] = number();
      begin[i] = static_cast<std::int32_t>(random.between(0, nr)),
      end[i] = static_cast<std::int32_t>(random.between(0, nr));
    }
    const float inverse_cap = 0x1.8p-6f;
    std::vector<float> p(size), ds(size);
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t r = i / static_cast<std::size_t>(nr);
      const auto lane = static_cast<std::int32_t>(i % static_cast<std::size_t>(nr));
      if (s[i] == -kInf || (has_interval && (lane < begin[r] || lane >= end[r]))) continue;
      p[i] = exp2_model(row.isa, s[i] - (lse[r] == -kInf ? 0.0f : lse[r]));
      ds[i] = p[i] * (dp[i] - delta[r]);
      const float t = capped[i] * inverse_cap;
      if (has_cap) ds[i] *= std::fma(-t, t, 1.0f);
    }
    row.scores({s.data(), dp.data(), rows, nr, lse.data(), delta.data(),
                has_interval ? begin.data() : nullptr, end.data(), has_cap ? capped.data() : nullptr,
                inverse_cap});
    for (std::size_t i = 0; i < size; ++i) {
      ASSERT_TRUE(same_value(s[i], p[i])) << "p " << i << ": " << s[i] << ", want " << p[i];
      ASSERT_TRUE(same_value(dp[i], ds[i])) << "ds " << i << ": " << dp[i] << ", want " << ds[i];
    }
    for (const auto* operand : {&s, &dp, &capped, &lse, &delta}) ASSERT_TRUE(operand->intact());
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Gradient,
                         ::testing::ValuesIn(host_rows(kernels::gradient_kernels(), kernels::Element::f32)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
