// SPDX-License-Identifier: Apache-2.0
// How long a plan should take on a machine of given rates.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/attention.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

// One KV head, one row block, one split: the model's arithmetic by hand.
TEST(Predict, OneTaskTakesTheLongerOfArithmeticAndReading) {
  ContextOptions options;
  options.topology = "core:1 pu:1";
  const Context context = context_of(options);
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 1, 1, 1, 64);
  args.k = args.v = ConstTensor::bhsd(nullptr, 1, 1, 100, 64);
  args.out = Tensor::bhsd(nullptr, 1, 1, 1, 64);
  args.pipeline = Pipeline::decode;
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  const double bytes = 100 * 128 * 4, never = 1e30;
  EXPECT_NEAR(made.predict({never, 1e9, 2e9, 0}).seconds, bytes / 1e9, 1e-12)
      << "the core's rate is the lower";
  EXPECT_NEAR(made.predict({never, 4e9, 2e9, 0}).seconds, bytes / 2e9, 1e-12) << "the domain's is";
  const double fmas = 100 * 128 * 4 + 64 * 128;  // a row counts as four, and its merge
  EXPECT_NEAR(made.predict({1e9, never, never, 0}).seconds, 2 * fmas / 1e9, 1e-12);
  EXPECT_NEAR(made.predict({1e9, never, never, 3e-6}).seconds, 2 * fmas / 1e9 + 3e-6, 1e-12);
  EXPECT_NEAR(made.predict({1e9, never, never, 3e-6}).attainable_seconds, 2 * fmas / 1e9, 1e-12);
  for (const MachineRates& none : {MachineRates{}, MachineRates{-1, 1, 1, 0}, MachineRates{1, NAN, 1, 0}})
    EXPECT_EQ(made.predict(none).seconds, 0);
  EXPECT_EQ(Plan().predict({1, 1, 1, 0}).seconds, 0);
}

TEST(Predict, ReadsKeysOfTheirTypeUpToTheUsedLength) {
  ContextOptions options;
  options.topology = "core:1 pu:1";
  const std::int32_t used[] = {100, 40};
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 2, 1, 1, 64, DataType::bf16);
  args.k = args.v = ConstTensor::bhsd(nullptr, 2, 1, 100, 64, DataType::bf16);
  args.out = Tensor::bhsd(nullptr, 2, 1, 1, 64, DataType::bf16);
  args.seqused_k = used;
  Plan made;
  ASSERT_TRUE(plan(context_of(options), args, &made).ok());
  EXPECT_NEAR(made.predict({1e30, 1e9, 1e9, 0}).seconds, 140 * 128 * 2 / 1e9, 1e-12);
}

// Keys before a window are not read, nor those between it and the first tokens.
TEST(Predict, ReadsNoKeyThatNoRowSees) {
  ContextOptions options;
  options.topology = "core:1 pu:1";
  const Context context = context_of(options);
  const auto keys_read = [&](std::int64_t queries, std::int64_t window, std::int64_t first_tokens) {
    AttentionArgs args;
    args.q = ConstTensor::bhsd(nullptr, 1, 1, queries, 64);
    args.k = args.v = ConstTensor::bhsd(nullptr, 1, 1, 5000, 64);
    args.out = Tensor::bhsd(nullptr, 1, 1, queries, 64);
    args.is_causal = true;
    args.window_left = window - 1;
    args.window_sink_tokens = first_tokens;
    Plan made;
    EXPECT_TRUE(plan(context, args, &made).ok());
    return made.predict({1e30, 128 * 4, 1e9, 0}).seconds;
  };
  EXPECT_NEAR(keys_read(1, 1, 0), 1, 1e-9);
  EXPECT_NEAR(keys_read(1, 700, 0), 700, 1e-9);
  EXPECT_NEAR(keys_read(1, 700, 4), 704, 1e-9);
  EXPECT_NEAR(keys_read(3, 100, 0), 102, 1e-9);
}

// 20000 tasks of hours each, in integers that hold 100 days of picoseconds.
TEST(Predict, TasksThatTakeYearsAddUp) {
  ContextOptions options;
  options.topology = "core:1 pu:1";
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 20000, 1, 1, 64);
  args.k = args.v = ConstTensor::bhsd(nullptr, 20000, 1, 100, 64);
  args.out = Tensor::bhsd(nullptr, 20000, 1, 1, 64);
  Plan made;
  ASSERT_TRUE(plan(context_of(options), args, &made).ok());
  const double seconds = 20000.0 * 100 * 128 * 4;
  const Prediction slow = made.predict({1e30, 1, 1, 0});
  EXPECT_NEAR(slow.seconds, seconds, 1e-9 * seconds);
  EXPECT_NEAR(slow.attainable_seconds, seconds, 1e-9 * seconds);
  EXPECT_EQ(made.predict({1e-308, 1, 1, 0}).seconds, INFINITY);
}

TEST(Predict, CoresOfADomainShareItsBandwidth) {
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 16, 1, 1, 64);
  args.k = args.v = ConstTensor::bhsd(nullptr, 16, 1, 4096, 64);
  args.out = Tensor::bhsd(nullptr, 16, 1, 1, 64);
  const double bytes = 16.0 * 4096 * 128 * 4;
  const auto seconds = [&](const char* topology) {
    ContextOptions options;
    options.topology = topology;
    Plan made;
    EXPECT_TRUE(plan(context_of(options), args, &made).ok());
    return made.predict({1e30, 10e9, 20e9, 0}).seconds;
  };
  EXPECT_NEAR(seconds("core:1 pu:1"), bytes / 10e9, 1e-9);
  EXPECT_NEAR(seconds("core:2 pu:1"), bytes / 20e9, 1e-9);
  EXPECT_NEAR(seconds("core:8 pu:1"), bytes / 20e9, 1e-9) << "six more cores bring nothing";
  EXPECT_NEAR(seconds("numa:4 core:2 pu:1"), bytes / 80e9, 1e-9);
  ContextOptions options;
  options.topology = "core:2 pu:1";
  Plan made;
  ASSERT_TRUE(plan(context_of(options), args, &made).ok());
  EXPECT_NEAR(made.predict({1e30, 10e9, 20e9, 5}).attainable_seconds, bytes / 20e9, 1e-9)
      << "both cores at work";
}

}  // namespace
}  // namespace kumiko::test
