// SPDX-License-Identifier: Apache-2.0
// Plan::update(): changes lengths in place, gives the bits of a new plan, and cuts again only if necessary.
#include <gtest/gtest.h>

#include <array>
#include <random>
#include <string_view>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/host.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

using Lengths = std::vector<std::int32_t>;

/// The same tensors with other lengths; keys and values past them are poisoned.
Problem with_lengths(Case c, const Lengths& lengths) {
  c.seqused = lengths;
  return Problem(c);
}

Case decode() {
  Case c;
  c.batch = 5;
  c.q_heads = 8, c.kv_heads = 2;
  c.q_len = 1, c.kv_len = 3000;
  c.head_dim = 16, c.v_head_dim = 20;
  c.is_causal = true;
  return c;
}

/// A task has several heads: how many depends on the lengths.
Case side_by_side() {
  Case c = decode();
  c.q_heads = 16, c.kv_heads = 8;
  c.k_layout = c.v_layout = Layout::bshd;
  return c;
}

Case prefill() {
  Case c = decode();
  c.batch = 3;
  c.q_heads = 2;
  c.q_len = 150, c.kv_len = 1600;
  return c;
}

Case windowed() {
  Case c = prefill();
  c.window_left = 300;
  c.bias = TermLayout::keys;
  return c;
}

std::vector<Context> contexts() {
  std::vector<Context> list;
  for (const char* topology : {"core:1 pu:1", "numa:1 core:3 pu:1", "numa:2 core:2 pu:1"}) {
    if (kEmulated && std::string_view(topology) != "numa:2 core:2 pu:1") continue;
    ContextOptions options;
    options.topology = topology;
    list.push_back(context_of(options));
  }
  return list;
}

void expect_bits_of_a_new_plan(const Context& context, const Plan& updated, const Problem& problem) {
  const Outcome want = problem.run(context);
  problem.poison_outputs();
  const Status ran = updated.run(problem.args());
  ASSERT_TRUE(ran.ok()) << ran.message();
  EXPECT_TRUE(problem.borders_intact());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

// Single steps of one sequence, large steps, empty sequences, and back. Under emulation, which has the same
// code in every file but the kernels', once.
TEST(PlanUpdate, HasTheBitsOfANewPlan) {
  std::mt19937 random(7);
  for (const Context& context : contexts()) {
    for (const Case& c : {decode(), side_by_side(), prefill(), windowed()}) {
      SCOPED_TRACE(::testing::Message() << c << ", " << context.num_threads() << " threads");
      Lengths lengths(static_cast<std::size_t>(c.batch), 510);
      Plan made;
      ASSERT_TRUE(plan(context, with_lengths(c, lengths).args(), &made).ok());
      for (int step = 0; step < (kEmulated ? 4 : 12); ++step) {
        for (std::int32_t& length : lengths) {
          const auto most = static_cast<std::int32_t>(c.kv_len);
          length = step % 4 == 3 ? std::uniform_int_distribution<std::int32_t>(0, most)(random)
                                 : std::min(length + 1, most);
        }
        const Status status = made.update(lengths);
        ASSERT_TRUE(status.ok()) << status.message();
        expect_bits_of_a_new_plan(context, made, with_lengths(c, lengths));
      }
      lengths.assign(lengths.size(), 0);
      ASSERT_TRUE(made.update(lengths).ok());
      expect_bits_of_a_new_plan(context, made, with_lengths(c, lengths));
      lengths.assign(lengths.size(), static_cast<std::int32_t>(c.kv_len));
      ASSERT_TRUE(made.update(lengths).ok());
      expect_bits_of_a_new_plan(context, made, with_lengths(c, lengths));
    }
  }
}

/// [begin, end) of each task along the keys.
std::vector<std::array<std::int64_t, 2>> splits_of(const Plan& plan) {
  std::vector<std::array<std::int64_t, 2>> splits;
  for (const PlannedTask& task : impl_of(plan)->partition.tasks)
    splits.push_back({task.split_begin, task.split_end});
  return splits;
}

TEST(PlanUpdate, CutsAnewOnlyWhereARowBlockHasOtherSplits) {
  ContextOptions options;
  options.topology = "core:4 pu:1";
  const Context context = context_of(options);
  Lengths lengths{513, 1000, 1024, 1, 2049};
  const Problem problem = with_lengths(decode(), lengths);
  Plan made;
  ASSERT_TRUE(plan(context, problem.args(), &made).ok());
  const PlannedTask* const tasks = impl_of(made)->partition.tasks.data();
  const auto before = splits_of(made);
  lengths = {1024, 513, 1023, 512, 2060};
  ASSERT_TRUE(made.update(lengths).ok());
  EXPECT_EQ(impl_of(made)->partition.tasks.data(), tasks);
  EXPECT_EQ(splits_of(made), before);
  lengths[3] = 513;
  ASSERT_TRUE(made.update(lengths).ok());
  Plan fresh;
  ASSERT_TRUE(plan(context, with_lengths(decode(), lengths).args(), &fresh).ok());
  EXPECT_NE(splits_of(made), before);
  EXPECT_EQ(splits_of(made), splits_of(fresh));
  EXPECT_EQ(made.explain(), fresh.explain());
}

// Some heads have some of their blocks in finer rows, whose ends reach a split where the first head's do not.
TEST(PlanUpdate, HeadsThatAreCutFinerAreLookedAt) {
  Case c = prefill();
  c.batch = 1;
  c.q_heads = c.kv_heads = 8;
  c.q_len = 1024, c.kv_len = 2048;
  ContextOptions options;
  options.topology = "core:2 pu:1";
  for (const std::string& isa : swept_isas()) {
    options.isa = isa;
    const Context context = context_of(options);
    for (std::int32_t length = 1024; length < 1536; length += kEmulated ? 512 : 16) {
      SCOPED_TRACE(::testing::Message() << options.isa << " " << length);
      Plan made;
      ASSERT_TRUE(plan(context, with_lengths(c, {length}).args(), &made).ok());
      const std::int32_t longer = length + 1;
      ASSERT_TRUE(made.update({&longer, 1}).ok());
      expect_bits_of_a_new_plan(context, made, with_lengths(c, {longer}));
    }
  }
}

// A window's first key moves with its last: it may leave a split without reaching a new one.
TEST(PlanUpdate, SplitsThatAWindowLeavesAreCutAnew) {
  ContextOptions options;
  options.topology = "core:4 pu:1";
  const Context context = context_of(options);
  Case c = decode();
  c.batch = 1;
  c.window_left = 700;
  Plan made, fresh;
  ASSERT_TRUE(plan(context, with_lengths(c, {1100}).args(), &made).ok());
  const auto before = splits_of(made);
  ASSERT_TRUE(made.update(Lengths{1214}).ok());
  ASSERT_TRUE(plan(context, with_lengths(c, {1214}).args(), &fresh).ok());
  EXPECT_NE(splits_of(made), before);
  EXPECT_EQ(splits_of(made), splits_of(fresh));
}

TEST(PlanUpdate, CopiesShareTheLengths) {
  const Context context = context_of(ContextOptions{});
  const Lengths lengths{100, 200, 300, 400, 2000};
  Plan made;
  ASSERT_TRUE(plan(context, with_lengths(decode(), {1, 2, 3, 4, 5}).args(), &made).ok());
  const Plan copy = made;
  ASSERT_TRUE(made.update(lengths).ok());
  expect_bits_of_a_new_plan(context, copy, with_lengths(decode(), lengths));
}

TEST(PlanUpdate, WrongLengthsAreRefusedAndChangeNothing) {
  const Context context = context_of(ContextOptions{});
  const Lengths lengths{100, 200, 300, 400, 3000};
  const Problem problem = with_lengths(decode(), lengths);
  Plan made;
  ASSERT_TRUE(plan(context, problem.args(), &made).ok());
  const struct {
    Lengths lengths;
    const char* says;
  } wrong[] = {
      {{100, 200, 300, 400}, "seqused_k.size() is 4; expected the planned batch, 5"},
      {{100, 200, 300, 400, 500, 600}, "seqused_k.size() is 6; expected the planned batch, 5"},
      {{}, "seqused_k.size() is 0; expected the planned batch, 5"},
      {{100, -1, 300, 400, 500}, "seqused_k[1] is -1; expected 0..3000 (kv_len)"},
      {{100, 200, 300, 400, 3001}, "seqused_k[4] is 3001; expected 0..3000 (kv_len)"},
  };
  for (const auto& [given, says] : wrong) {
    const Status status = made.update(given);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_EQ(status.message(), says);
    expect_bits_of_a_new_plan(context, made, problem);
  }
}

TEST(PlanUpdate, NeedsAPlanWithLengths) {
  EXPECT_EQ(Plan().update(Lengths{}).code(), Code::invalid_argument);
  const Context context = context_of(ContextOptions{});
  const Problem problem(decode());
  Plan made;
  ASSERT_TRUE(plan(context, problem.args(), &made).ok());
  const Status status = made.update(Lengths{1, 2, 3, 4, 5});
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("seqused_k"), std::string::npos) << status.message();
  expect_bits_of_a_new_plan(context, made, problem);
}

// A run with lengths other than the plan's is refused, before and after.
TEST(PlanUpdate, RunsTakeTheLengthsOfTheLatestUpdate) {
  const Context context = context_of(ContextOptions{});
  const Problem first = with_lengths(decode(), {1, 2, 3, 4, 5}),
                second = with_lengths(decode(), {6, 7, 8, 9, 10});
  Plan made;
  ASSERT_TRUE(plan(context, first.args(), &made).ok());
  EXPECT_EQ(made.run(second.args()).code(), Code::invalid_argument);
  ASSERT_TRUE(made.update(Lengths{6, 7, 8, 9, 10}).ok());
  EXPECT_EQ(made.run(first.args()).code(), Code::invalid_argument);
  expect_bits_of_a_new_plan(context, made, second);
}

}  // namespace
}  // namespace kumiko::test
