// SPDX-License-Identifier: Apache-2.0
// The specification against answers worked out by hand, and the error check against deliberate faults.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "tests/reference/attention_reference.h"
#include "tests/reference/error_promise.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

// One head, head_dim 1, q = 1, scale 1: the scores are the keys themselves.
struct Tiny {
  std::vector<float> q, k, v;
  AttentionArgs args;
  Tiny(std::int64_t q_len, std::vector<float> keys, std::vector<float> values)
      : q(static_cast<std::size_t>(q_len), 1.0f), k(std::move(keys)), v(std::move(values)) {
    const auto kv_len = static_cast<std::int64_t>(k.size());
    args.q = ConstTensor::bhsd(q.data(), 1, 1, q_len, 1);
    args.k = ConstTensor::bhsd(k.data(), 1, 1, kv_len, 1);
    args.v = ConstTensor::bhsd(v.data(), 1, 1, kv_len, 1);
    args.scale = 1.0f;
  }
};

std::vector<int> visible(const AttentionArgs& args, std::int64_t i) {
  std::vector<int> keys;
  for (int j = 0; j < args.k.shape[2]; ++j)
    if (sees(args, 0, i, j)) keys.push_back(j);
  return keys;
}
using Keys = std::vector<int>;

TEST(Reference, WeightsAreExponentialsOfScores) {
  // Weights 1 : 3 : 4 from logarithms; lse = ln 8.
  Tiny t(1, {0.0f, std::log(3.0f), std::log(4.0f)}, {8.0f, 16.0f, 24.0f});
  const auto r = attention_fp64(t.args);
  EXPECT_NEAR(r.out[0], (8.0 + 3 * 16.0 + 4 * 24.0) / 8, 1e-6);
  EXPECT_NEAR(r.lse[0], std::log(8.0), 1e-7);
  EXPECT_EQ(r.rows[0].visible, 3);
  const auto n = attention_naive_f32(t.args);
  EXPECT_NEAR(n.out[0], 19.0f, 1e-5f);
}

TEST(Reference, DefaultScaleIsOneOverRootOfHeadDim) {
  const std::vector<float> q(4, 1.0f), k = {2, 2, 2, 2, 0, 0, 0, 0}, v = {1, 0};
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 1, 1, 4);
  args.k = ConstTensor::bhsd(k.data(), 1, 1, 2, 4);
  args.v = ConstTensor::bhsd(v.data(), 1, 1, 2, 1);
  EXPECT_NEAR(attention_fp64(args).out[0], 1 / (1 + std::exp(-4.0)), 1e-15);
}

TEST(Reference, GroupedHeadsShareKeysAndValues) {
  const std::vector<float> q(4, 1.0f), k = {0, 0}, v = {5, 7};
  AttentionArgs args;
  args.q = ConstTensor::bhsd(q.data(), 1, 4, 1, 1);
  args.k = ConstTensor::bhsd(k.data(), 1, 2, 1, 1);
  args.v = ConstTensor::bhsd(v.data(), 1, 2, 1, 1);
  EXPECT_EQ(attention_fp64(args).out, (std::vector<double>{5, 5, 7, 7}));
}

TEST(Reference, StridesAreFollowed) {
  Tiny t(1, {0, 9, 0, 9}, {1, 9, 3, 9});
  t.args.k.shape[2] = t.args.v.shape[2] = 2;
  t.args.k.stride[2] = t.args.v.stride[2] = 2;
  EXPECT_EQ(attention_fp64(t.args).out[0], 2.0);
}

TEST(Visibility, CausalBottomRightEndsOnTheLastKey) {
  Tiny t(2, {0, 0, 0, 0}, {0, 0, 0, 0});
  t.args.is_causal = true;
  EXPECT_EQ(visible(t.args, 0), (Keys{0, 1, 2}));
  EXPECT_EQ(visible(t.args, 1), (Keys{0, 1, 2, 3}));
  t.args.causal_alignment = CausalAlignment::top_left;
  EXPECT_EQ(visible(t.args, 0), (Keys{0}));
  EXPECT_EQ(visible(t.args, 1), (Keys{0, 1}));
}

TEST(Visibility, MoreQueriesThanKeysLeaveTheFirstRowsBlind) {
  Tiny t(3, {0, 0}, {4, 6});
  t.args.is_causal = true;
  const auto r = attention_fp64(t.args);
  EXPECT_EQ(r.out, (std::vector<double>{0, 4, 5}));
  EXPECT_EQ(r.lse[0], -std::numeric_limits<double>::infinity());
  EXPECT_EQ(r.rows[0].visible, 0);
}

TEST(Visibility, UsedKeysMoveTheDiagonal) {
  Tiny t(1, {0, 0, 0, 0}, {1, 2, kNan, kNan});
  const std::int32_t used = 2;
  t.args.seqused_k = &used;
  EXPECT_EQ(visible(t.args, 0), (Keys{0, 1}));
  EXPECT_EQ(attention_fp64(t.args).out[0], 1.5);
  t.args.is_causal = true;
  EXPECT_EQ(visible(t.args, 0), (Keys{0, 1}));
  t.args.causal_alignment = CausalAlignment::top_left;
  EXPECT_EQ(visible(t.args, 0), (Keys{0}));
}

TEST(Visibility, WindowsAreMeasuredFromTheDiagonal) {
  Tiny t(3, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0});  // positions 2, 3, 4
  t.args.window_left = 1;
  EXPECT_EQ(visible(t.args, 0), (Keys{1, 2, 3, 4}));
  t.args.window_right = 1;
  EXPECT_EQ(visible(t.args, 0), (Keys{1, 2, 3}));
  t.args.is_causal = true;
  EXPECT_EQ(visible(t.args, 0), (Keys{1, 2}));
  t.args.causal_alignment = CausalAlignment::top_left;
  EXPECT_EQ(visible(t.args, 2), (Keys{1, 2}));
  t.args.window_left = std::numeric_limits<std::int64_t>::max();
  EXPECT_EQ(visible(t.args, 2), (Keys{0, 1, 2}));
}

TEST(Visibility, PrefixesAndFirstTokensBesideAWindow) {
  Tiny t(3, {0, 0, 0, 0, 0}, {0, 0, 0, 0, 0});  // positions 2, 3, 4
  const std::int32_t prefix = 4;
  t.args.is_causal = true;
  t.args.prefix_lens = &prefix;
  EXPECT_EQ(visible(t.args, 0), (Keys{0, 1, 2, 3}));
  t.args.window_left = 1;  // hides keys of the prefix, too
  EXPECT_EQ(visible(t.args, 0), (Keys{1, 2, 3}));
  EXPECT_EQ(visible(t.args, 2), (Keys{3, 4}));
  t.args.prefix_lens = nullptr, t.args.window_left = 0, t.args.window_sink_tokens = 2;
  EXPECT_EQ(visible(t.args, 0), (Keys{0, 1, 2}));
  EXPECT_EQ(visible(t.args, 2), (Keys{0, 1, 4}));
  t.args.causal_alignment = CausalAlignment::top_left;  // first tokens are under causality
  EXPECT_EQ(visible(t.args, 0), (Keys{0}));
  const std::uint8_t not_causal = 0;
  t.args.causal_sequences = &not_causal, t.args.window_right = 0;
  EXPECT_EQ(visible(t.args, 0), (Keys{0, 1}));
}

TEST(Visibility, TreesListsAndMasksHideEachInItsOwnWay) {
  Tiny t(2, {0, 0, 0, 0, 0}, {1, 2, 4, 8, 16});
  const auto sum = [&](std::size_t i) {
    const auto r = attention_fp64(t.args);
    return r.out[i] * static_cast<double>(r.rows[i].visible);
  };
  const std::uint8_t tree[] = {0b01, 0b10};  // of the last two keys, each query sees its own
  t.args.tree_mask = tree;
  EXPECT_DOUBLE_EQ(sum(0), 1 + 2 + 4 + 8);
  EXPECT_DOUBLE_EQ(sum(1), 1 + 2 + 4 + 16);
  const std::int32_t indptr[] = {0, 1, 3}, indices[] = {1, 0, 2};  // blocks of two keys
  t.args.bsr_indptr = indptr, t.args.bsr_indices = indices, t.args.bsr_rows = 1, t.args.bsr_keys = 2;
  EXPECT_DOUBLE_EQ(sum(0), 4 + 8);
  EXPECT_DOUBLE_EQ(sum(1), 1 + 2 + 16);
  const std::uint8_t mask[] = {1, 1, 0, 1, 1, 0, 1, 1, 1, 1};
  t.args.mask = ConstTensor::bhsd(mask, 1, 1, 2, 5, DataType::boolean);
  EXPECT_DOUBLE_EQ(sum(0), 8);
  EXPECT_DOUBLE_EQ(sum(1), 2 + 16);
}

// One query, its score and what each term makes of it.
TEST(Terms, InTheOrderOfTheHeader) {
  Tiny t(1, {3.0f, 0.0f}, {1.0f, 0.0f});
  const auto score = [&] { return attention_fp64(t.args).row_max[0]; };
  EXPECT_NEAR(score(), 3.0, 1e-15);
  t.args.softcap = 2.0f;
  const double capped = 2 * std::tanh(1.5);
  EXPECT_NEAR(score(), capped, 1e-15);
  const float bias[] = {0.5f, -9.0f}, slope = 0.25f;
  t.args.bias = ConstTensor::bhsd(bias, 1, 1, 1, 2);
  EXPECT_NEAR(score(), capped + 0.5, 1e-15);
  t.args.alibi_slopes = &slope;  // the query stands at key 1
  EXPECT_NEAR(score(), capped + 0.5 - 0.25, 1e-15);
  t.args.causal_alignment = CausalAlignment::top_left;
  EXPECT_NEAR(score(), capped + 0.5, 1e-15);
}

TEST(Sinks, JoinTheSumOfWeightsAndPerhapsTheLse) {
  Tiny t(1, {0.0f, std::log(2.0f)}, {6.0f, 9.0f});  // weights 1, 2 and of the sink 3
  const float sink = std::log(3.0f);
  t.args.sinks = &sink;
  EXPECT_NEAR(attention_fp64(t.args).out[0], (6.0 + 2 * 9.0) / 6, 1e-6);
  EXPECT_NEAR(attention_fp64(t.args).lse[0], std::log(6.0), 1e-6);
  EXPECT_NEAR(attention_fp64(t.args).row_max[0], std::log(2.0), 1e-6);
  t.args.lse_base = LseBase::two;
  EXPECT_NEAR(attention_fp64(t.args).lse[0], std::log2(6.0), 1e-6);
  t.args.lse_with_sink = false;
  EXPECT_NEAR(attention_fp64(t.args).lse[0], std::log2(3.0), 1e-6);
  const std::int32_t none = 0;
  t.args.seqused_k = &none;
  EXPECT_EQ(attention_fp64(t.args).lse[0], -std::numeric_limits<double>::infinity());
  t.args.lse_with_sink = true, t.args.lse_base = LseBase::natural;
  EXPECT_EQ(attention_fp64(t.args).lse[0], static_cast<double>(sink));
  EXPECT_EQ(attention_fp64(t.args).out[0], 0.0);
}

TEST(SpecialValues, InfinitiesAndNan) {
  EXPECT_EQ(attention_fp64(Tiny(1, {-kInf, 0}, {9, 3}).args).out[0], 3.0);
  const auto blind = attention_fp64(Tiny(1, {-kInf, -kInf}, {9, 3}).args);
  EXPECT_EQ(blind.out[0], 0.0);
  EXPECT_EQ(blind.lse[0], -std::numeric_limits<double>::infinity());
  for (const float bad : {kNan, kInf}) {  // weights of 0
    const auto weightless = attention_fp64(Tiny(1, {-kInf, -kInf}, {bad, 3}).args);
    EXPECT_TRUE(std::isnan(weightless.out[0]));
    EXPECT_EQ(weightless.lse[0], -std::numeric_limits<double>::infinity());
  }
  EXPECT_TRUE(std::isnan(attention_fp64(Tiny(1, {kInf, 0}, {9, 3}).args).out[0]));
  const auto nan = attention_fp64(Tiny(1, {kNan, 0}, {9, 3}).args);
  EXPECT_TRUE(std::isnan(nan.out[0]) && std::isnan(nan.lse[0]));
  EXPECT_TRUE(std::isnan(attention_fp64(Tiny(1, {kNan, -kInf}, {9, 3}).args).out[0]));
  const auto value = attention_fp64(Tiny(1, {0, 0}, {kNan, 3}).args);
  EXPECT_TRUE(std::isnan(value.out[0]));
  EXPECT_NEAR(value.lse[0], std::log(2.0), 1e-15);
}

struct Noise : ::testing::Test {
  std::vector<float> q, k, v;
  AttentionArgs args;
  AttentionResult<double> fp64;
  AttentionResult<float> naive;
  void SetUp() override {
    Random random(3);
    for (auto* x : {&q, &k, &v})
      for (int i = 0; i < 20 * 16; ++i) x->push_back(random.normal());
    args.q = ConstTensor::bhsd(q.data(), 1, 1, 20, 16);
    args.k = ConstTensor::bhsd(k.data(), 1, 1, 20, 16);
    args.v = ConstTensor::bhsd(v.data(), 1, 1, 20, 16);
    args.is_causal = true;
    fp64 = attention_fp64(args);
    naive = attention_naive_f32(args);
  }
};

TEST_F(Noise, NaiveKeepsThePromiseAndIsNotExact) {
  WorstError worst;
  EXPECT_TRUE(meets_error_promise(naive.out, naive.lse, fp64, naive, &worst));
  EXPECT_GT(worst.naive_out, 0.3);
  EXPECT_LT(worst.naive_out, 50);
  EXPECT_EQ(worst.out, worst.naive_out);
}

TEST_F(Noise, SmallFaultsAreCaught) {
  for (const std::size_t n : {std::size_t{0}, naive.out.size() - 1}) {
    auto bad = naive.out;
    bad[n] += 0x1p-18f * std::max(1.0f, std::abs(bad[n]));  // 64 roundoffs
    EXPECT_FALSE(meets_error_promise(bad, naive.lse, fp64, naive));
    bad[n] = kNan;
    EXPECT_FALSE(meets_error_promise(bad, naive.lse, fp64, naive));
  }
  auto lse = naive.lse;
  lse[7] += 0x1p-16f;
  EXPECT_FALSE(meets_error_promise(naive.out, lse, fp64, naive));
  EXPECT_FALSE(meets_error_promise(naive.out, std::vector<float>(3), fp64, naive));
}

}  // namespace
}  // namespace kumiko::test
