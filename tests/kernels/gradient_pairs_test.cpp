// SPDX-License-Identifier: Apache-2.0
// Gradient rows that write bf16 pairs against the scalar steps of kernels/gradient/gradient.h, bit for bit.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/gradient/gradient.h"
#include "kernels/softmax/softmax.h"
#include "tests/kernels/pairs.h"
#include "tests/kernels/rows.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using kernels::Element, kernels::GradientKernel;

/// What the conversion to bf16 reads.
float whole(float x) {
  return zero_if_subnormal(x);
}

struct GradientPairs : RowTest<GradientKernel> {
  Random random{test_seed(67)};
  const kernels::SoftmaxKernel& softmax = *kernels::find_softmax(row.isa, Element::bf16);

  float exp2(float x) const {
    float in[16] = {x}, out[16];
    softmax.exp2(in, out, 16);
    return out[0];
  }
  float number() {
    return random.one_in(25)   ? kNan
           : random.one_in(25) ? -kInf
           : random.one_in(40) ? kInf
           : random.one_in(10) ? 0x1p-130f
                               : random.normal();
  }
};

TEST_P(GradientPairs, FollowTheStatedSteps) {
  for (int repeat = 0; repeat < thinned(300, 60, 20); ++repeat) {
    const std::int64_t nr = random.between(1, 3) * row.lanes, rows = random.between(1, 20);
    const Place place = random.pick({Place::front, Place::back});
    const bool has_interval = random.one_in(2), has_cap = random.one_in(2);
    const float scale = random.pick({1.0f, 0.18f, 3.0f, 0x1p100f}), inverse_cap = 0x1.8p-6f;
    SCOPED_TRACE(::testing::Message() << row.name << " nr " << nr << " rows " << rows << " scale " << scale);
    const auto size = static_cast<std::size_t>(rows * nr), count = static_cast<std::size_t>(rows),
               lanes = static_cast<std::size_t>(nr);
    Operand<float> s(size, place), dp(size, place), capped(size, place), lse(count, place),
        delta(count, place);
    Operand<std::int32_t> begin(count, place), end(count, place);
    Operand<std::uint16_t> ds_rows(size, place);
    for (std::size_t i = 0; i < size; ++i) {
      s[i] = random.one_in(25) ? kNan : random.one_in(25) ? -kInf : (random.normal() - 3.0f) / scale;
      // Beyond the range of f32 once it is scaled.
      if (random.one_in(25) && scale > 3.0f) s[i] = -0x1p100f;
      dp[i] = number(), capped[i] = 20 * random.normal();
    }
    for (std::size_t i = 0; i < count; ++i) {
      lse[i] = random.one_in(8) ? -kInf : 4.0f + random.normal(), delta[i] = number();
      begin[i] = static_cast<std::int32_t>(random.between(0, nr)),
      end[i] = static_cast<std::int32_t>(random.between(0, nr));
    }
    std::vector<float> p(size), ds(size);
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t r = i / lanes;
      const auto lane = static_cast<std::int32_t>(i % lanes);
      if (s[i] * scale == -kInf || (has_interval && (lane < begin[r] || lane >= end[r]))) continue;
      p[i] = exp2(std::fma(s[i], scale, lse[r] == -kInf ? 0.0f : -lse[r]));
      ds[i] = p[i] * (dp[i] - delta[r]);
      const float t = capped[i] * inverse_cap;
      if (has_cap) ds[i] *= std::fma(-t, t, 1.0f);
    }
    row.scores({s.data(), dp.data(), rows, nr, lse.data(), delta.data(),
                has_interval ? begin.data() : nullptr, end.data(), has_cap ? capped.data() : nullptr,
                inverse_cap, scale, ds_rows.data()});
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t r = i / lanes, at = r / 2 * lanes + i % lanes;
      const int which = static_cast<int>(r % 2);
      const auto rounded = [](float x) { return element_of_pair(pair_of(whole(x), 0.0f), 0); };
      ASSERT_TRUE(same_value(element_of_pair(s[at], which), rounded(p[i])))
          << "p " << i << ": " << element_of_pair(s[at], which) << ", want " << p[i];
      ASSERT_TRUE(same_value(element_of_pair(dp[at], which), rounded(ds[i])))
          << "ds " << i << ": " << element_of_pair(dp[at], which) << ", want " << ds[i];
      ASSERT_TRUE(same_value(kernels::to_float(kernels::Bf16{ds_rows[i]}), rounded(ds[i]))) << "row " << i;
      if (r + 1 == count && which == 0) {
        EXPECT_EQ(element_of_pair(s[at], 1), 0.0f);
        EXPECT_EQ(element_of_pair(dp[at], 1), 0.0f);
      }
    }
    for (const auto* operand : {&s, &dp, &capped, &lse, &delta}) ASSERT_TRUE(operand->intact());
    ASSERT_TRUE(ds_rows.intact());
  }
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GradientPairs);  // a machine without bf16 products has no row
INSTANTIATE_TEST_SUITE_P(Rows, GradientPairs,
                         ::testing::ValuesIn(host_rows(kernels::gradient_kernels(), Element::bf16)),
                         RowName());

}  // namespace
}  // namespace kumiko::test
