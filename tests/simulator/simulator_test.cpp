// SPDX-License-Identifier: Apache-2.0
// Balance of plans, predicted by the clockless simulation, over shapes and machines (docs/planning.md).
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/simulator/sweep.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

// Every n-th problem, with n prime to the lengths of the sweep's inner loops, so that all shapes occur.
constexpr int stride() {
  return kThinned ? 97 : 7;
}

class Simulator : public testing::TestWithParam<int> {};

TEST_P(Simulator, PlansAreBalanced) {
  const SweepMachine machine = sweep_machines()[static_cast<std::size_t>(GetParam())];
  const Context context = planning_context(machine);
  ASSERT_TRUE(context);
  const std::vector<SweepProblem> problems = sweep_problems();
  int many = 0, above = 0, avoidable = 0;
  for (std::size_t i = 0; i < problems.size(); i += static_cast<std::size_t>(stride())) {
    const SweepResult result = plan_problem(context, problems[i]);
    const auto why = [&] { return problems[i].name() + ", " + std::to_string(result.tasks) + " tasks"; };
    ASSERT_GT(result.tasks, 0) << why();
    EXPECT_GE(result.makespan, result.bound) << why();
    // Pieces that cannot be cut (a split of the keys, a tile of rows) have no better bound than Graham's.
    if (!result.may_be_cut) {
      EXPECT_LE(result.makespan, result.bound + result.costliest) << why();
    } else if (result.tasks < 4 * machine.cores) {
      EXPECT_LE(result.ratio(), 1.10) << why();
    } else {
      ++many;
      above += result.ratio() > 1.03;
      avoidable += result.avoidable_ratio() > 1.03;
      EXPECT_LE(result.ratio(), 1.10) << why();
      EXPECT_LE(result.avoidable_ratio(), 1.05) << why();
    }
  }
  EXPECT_GT(many, kThinned ? 10 : 100) << "the sweep has lost its cases";
  EXPECT_LE(above, many / 100 + (kThinned ? 1 : 0))
      << "more than 1 % of the plans are above 1.03 times the bound";
  EXPECT_LE(avoidable, 1 + many / 1000) << "plans above 1.03 times the bound that could be better";
}

INSTANTIATE_TEST_SUITE_P(Machines, Simulator, testing::Range(0, 5), [](const auto& row) {
  return "m" + std::string(sweep_machines()[static_cast<std::size_t>(row.param)].name);
});

// 4 heads of 256 splits on 48 cores: 21.33 splits each, so some core has 22.
TEST(WholeSplits, AreDealtAsEvenlyAsTheyCanBe) {
  const Context context = planning_context(sweep_machines()[2]);
  ASSERT_TRUE(context);
  const SweepResult result = plan_problem(context, {1, 32, 4, 131072, Phase::decode, Visibility::full});
  EXPECT_EQ(result.makespan, result.whole_bound);
  EXPECT_NEAR(result.ratio(), 22 / (1024 / 48.0), 1e-3);
  EXPECT_EQ(result.avoidable_ratio(), 1.0);
}

TEST(Heads, AreCutAcrossDomainsOnlyWhereBalanceNeedsIt) {
  const Context context = planning_context(sweep_machines()[2]);
  ASSERT_TRUE(context);
  const auto cut = [&](std::int64_t batch, std::int64_t heads, std::int64_t kv_heads, std::int64_t keys,
                       Phase phase) {
    return plan_problem(context, {batch, heads, kv_heads, keys, phase, Visibility::causal}).cut_heads;
  };
  EXPECT_EQ(cut(1, 32, 8, 4096, Phase::prefill), 0) << "8 heads on 4 domains";
  EXPECT_EQ(cut(64, 32, 8, 4096, Phase::decode), 0) << "512 heads on 4 domains";
  EXPECT_EQ(cut(1, 8, 1, 20000, Phase::decode), 1) << "one head, whose halves are read by several domains";
  EXPECT_LE(cut(3, 7, 7, 20000, Phase::decode), 3) << "21 heads: the last of each round at most";
}

// One long sequence among many short ones must not be left to one core, however many tasks there are.
TEST(Heads, ALongSequenceAmongShortOnesIsCut) {
  const Context context = planning_context(sweep_machines()[2]);
  ASSERT_TRUE(context);
  std::vector<std::int32_t> lengths(64, 100);
  lengths[17] = 131072;
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, 64, 64, 1, 128);
  args.k = args.v = ConstTensor::bhsd(nullptr, 64, 8, 131072, 128);
  args.out = Tensor::bhsd(nullptr, 64, 64, 1, 128);
  args.seqused_k = lengths.data();
  Plan prepared;
  ASSERT_TRUE(plan(context, args, &prepared).ok());
  const SweepResult result = result_of(prepared);
  EXPECT_LE(result.costliest, result.bound / 3) << "of what a core has to do";
  EXPECT_LE(result.ratio(), 1.03);
}

}  // namespace
}  // namespace kumiko::test
