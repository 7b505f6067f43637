// SPDX-License-Identifier: Apache-2.0
// The specification of the gradients against differences of the specification of attention.
#include "tests/reference/gradient_reference.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdlib>
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
                     sinks = numbers(kHeads), slopes = numbers(kHeads),
                     dout = numbers(kHeads * kQueries * kValueDim), dlse = numbers(kHeads * kQueries);
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
    // A bias is added to the score: its gradient is the score's, which is 0 for a pair that is not seen.
    if (args.bias.data) expect_differences(bias, r.dscores, "bias");
    if (args.alibi_slopes) expect_differences(slopes, of_slopes(r.dscores), "slopes");
  }
  /// Sums of the gradients of scores times a slope's weight in each, -|p - j|.
  std::vector<double> of_slopes(const std::vector<double>& dscores) const {
    const std::int64_t shift =
        args.causal_alignment == CausalAlignment::bottom_right ? used_keys(args, 0) - kQueries : 0;
    std::vector<double> sums(kHeads);
    for (std::int64_t n = 0; n < kHeads * kQueries * kKeys; ++n)
      sums[static_cast<std::size_t>(n / (kQueries * kKeys))] -=
          dscores[static_cast<std::size_t>(n)] *
          static_cast<double>(std::abs(n / kKeys % kQueries + shift - n % kKeys));
    return sums;
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
TEST_F(Differences, OfTermsUnderMasks) {
  const std::int32_t used = 3, prefix = 2;
  const std::vector<std::uint8_t> mask = {1, 0, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0};  // for both heads
  args.bias = ConstTensor::bhsd(bias.data(), 1, kHeads, kQueries, kKeys);
  args.alibi_slopes = slopes.data();
  args.mask = {mask.data(), args.bias.shape, {0, 0, kKeys, 1}, DataType::boolean};
  expect_all();
  args.seqused_k = &used, args.is_causal = true, args.softcap = 2.0f, args.sinks = sinks.data();
  expect_all();
  args.causal_alignment = CausalAlignment::top_left, args.prefix_lens = &prefix, args.window_left = 0;
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
