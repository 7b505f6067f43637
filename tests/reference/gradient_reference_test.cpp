// SPDX-License-Identifier: Apache-2.0
// The specification of the gradients against differences of the specification of attention.
#include "tests/reference/gradient_reference.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "tests/reference/attention_reference.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

// Elements are multiples of the step, so that each is exact in f32, moved or not.
constexpr float kStep = 0x1p-10f;

struct Differences : ::testing::Test {
  static constexpr std::int64_t kHeads = 2, kQueries = 3, kKeys = 4, kDim = 3, kValueDim = 2;
  Random random{7};
  std::vector<float> q = numbers(kHeads * kQueries * kDim), k = numbers(kKeys * kDim),
                     v = numbers(kKeys * kValueDim), bias = numbers(kHeads * kQueries * kKeys),
                     sinks = numbers(kHeads), dout = numbers(kHeads * kQueries * kValueDim),
                     dlse = numbers(kHeads * kQueries);
  AttentionArgs args;

  Differences() {
    args.q = ConstTensor::bhsd(q.data(), 1, kHeads, kQueries, kDim);
    args.k = ConstTensor::bhsd(k.data(), 1, 1, kKeys, kDim);
    args.v = ConstTensor::bhsd(v.data(), 1, 1, kKeys, kValueDim);
  }
  std::vector<float> numbers(std::int64_t count) {
    std::vector<float> all(static_cast<std::size_t>(count));
    for (float& x : all) x = kStep * static_cast<float>(random.between(-1500, 1500));
    return all;
  }
  double loss() const {
    const AttentionResult<double> result = attention_fp64(args);
    double sum = 0;
    for (std::size_t i = 0; i < dout.size(); ++i) sum += static_cast<double>(dout[i]) * result.out[i];
    for (std::size_t i = 0; i < dlse.size(); ++i)
      if (result.lse[i] > -std::numeric_limits<double>::infinity())
        sum += static_cast<double>(dlse[i]) * result.lse[i];
    return sum;
  }
  void expect_differences(std::vector<float>& x, const std::vector<double>& gradient, const char* name) {
    ASSERT_EQ(x.size(), gradient.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      const float at = x[i];
      x[i] = at + kStep;
      const double above = loss();
      x[i] = at - kStep;
      const double below = loss();
      x[i] = at;
      EXPECT_NEAR((above - below) / (2 * static_cast<double>(kStep)), gradient[i], 2e-5) << name << " " << i;
    }
  }
  void expect_all() {
    const GradientResult<double> r = gradients_fp64(args, dout, dlse);
    expect_differences(q, r.dq, "q");
    expect_differences(k, r.dk, "k");
    expect_differences(v, r.dv, "v");
    if (args.sinks) expect_differences(sinks, r.dsinks, "sinks");
  }
};

TEST_F(Differences, OfPlainAttention) {
  expect_all();
}
TEST_F(Differences, OfCausalWindows) {
  args.is_causal = true, args.window_left = 1;
  expect_all();
}
TEST_F(Differences, OfTerms) {
  args.softcap = 1.5f;
  args.bias = ConstTensor::bhsd(bias.data(), 1, kHeads, kQueries, kKeys);
  args.lse_base = LseBase::two;
  expect_all();
}
TEST_F(Differences, OfSinks) {
  args.sinks = sinks.data();
  expect_all();
  args.lse_with_sink = false;
  expect_all();
}

TEST_F(Differences, NaiveFollowsTheSameSteps) {
  const GradientResult<double> exact = gradients_fp64(args, dout, dlse);
  const GradientResult<float> naive = gradients_naive_f32(args, dout, dlse);
  EXPECT_TRUE(gradient_is_right(naive.dq, exact.dq, naive.dq, exact.q_facts));
  std::vector<float> wrong = naive.dk;
  wrong[5] += 1e-4f;
  EXPECT_TRUE(gradient_is_right(naive.dk, exact.dk, naive.dk, exact.k_facts));
  EXPECT_FALSE(gradient_is_right(wrong, exact.dk, naive.dk, exact.k_facts));
  wrong[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_FALSE(gradient_is_right(wrong, exact.dk, naive.dk, exact.k_facts));
}

}  // namespace
}  // namespace kumiko::test
