// SPDX-License-Identifier: Apache-2.0
// Decode where the rows of several KV heads lie side by side: one task computes several heads, a part of each
// in turn. The bits are those of tensors in which each head lies alone.
#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "kernels/pipelines/decode.h"
#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/int8_case.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

TermLayout any_layout(Random& random) {
  return kTermLayouts[random.between(0, std::ssize(kTermLayouts) - 1)];
}

/// Several heads of up to some splits, with any mask.
Case draw_case(Random& random) {
  Case c = draw_small_case(random);
  c.kv_heads = random.between(2, 11), c.q_heads = c.kv_heads * random.between(1, 4);
  c.q_len = random.between(1, 3);
  // Rows 2 and 4 KiB apart meet in the sets of an L1.
  if (random.one_in(4)) c.kv_heads = 8, c.q_heads = 16, c.head_dim = random.pick<std::int64_t>({64, 128});
  c.out_layout = random.pick({Layout::bhsd, Layout::bshd});
  draw_sequence_visibility(random, &c);
  if (random.one_in(3)) c.mask = any_layout(random), c.mask_block = random.pick<std::int64_t>({1, 3, 40});
  if (random.one_in(3)) c.bias = any_layout(random);
  if (random.one_in(4)) c.alibi = 1;
  if (random.one_in(4)) c.softcap = 3.0f;
  c.sinks = random.one_in(4);
  return c;
}

Case side_by_side(Case c) {
  c.k_layout = c.v_layout = Layout::bshd;
  return c;
}

std::int64_t most_heads(const Context& context, const AttentionArgs& args) {
  Plan made;
  const Status status = plan(context, args, &made);
  EXPECT_TRUE(status.ok()) << status.message();
  return impl_of(made)->partition.most_heads();
}

struct HeadsInTurn : ::testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
};

TEST_P(HeadsInTurn, HaveTheBitsOfHeadsApart) {
  Random random(71);
  int in_turn = 0;
  for (int repeat = 0; repeat < thinned(150, 20, 12); ++repeat) {
    const Case c = draw_case(random);
    SCOPED_TRACE(::testing::Message() << c);
    const Problem apart(c), together(side_by_side(c));
    const Outcome want = apart.run(contexts[0], Pipeline::decode);
    for (const Context& context : contexts) {
      ASSERT_TRUE(same_bits(together.run(context, Pipeline::decode), want));
      in_turn += most_heads(context, together.args(Pipeline::decode)) > 1;
    }
    EXPECT_EQ(most_heads(contexts[0], apart.args(Pipeline::decode)), 1);
  }
  EXPECT_GT(in_turn, 0);
}

/// Copies of a problem's operands in 16 bits.
struct Narrow {
  NarrowTensor q, k, v;
  Narrow(const Problem& wide, DataType type)
      : q(wide.q, type, Flush::back), k(wide.k, type, Flush::front), v(wide.v, type, Flush::back) {
    q.copy(wide.q), k.copy(wide.k), v.copy(wide.v);
  }
  /// nullopt: the ISA has no such products.
  std::optional<Outcome> run(const Context& context, const Problem& wide, Precision precision) const {
    AttentionArgs args = wide.args(Pipeline::decode);
    args.q = q.input(), args.k = k.input(), args.v = v.input();
    args.precision = precision;
    wide.poison_outputs();
    const Status status = attention_forward(context, args);
    if (status.code() == Code::unsupported) return {};
    EXPECT_TRUE(status.ok()) << status.message();
    EXPECT_TRUE(wide.borders_intact());
    return wide.outcome();
  }
};

TEST_P(HeadsInTurn, HaveTheBitsOfHeadsApartInSixteenBits) {
  Random random(72);
  for (int repeat = 0; repeat < thinned(60, 8, 6); ++repeat) {
    const Case c = draw_case(random);
    const Problem apart(c), together(side_by_side(c));
    for (const DataType type : {DataType::bf16, DataType::f16}) {
      const Narrow narrow_apart(apart, type), narrow_together(together, type);
      for (const Precision precision : {Precision::standard, Precision::half}) {
        SCOPED_TRACE(::testing::Message() << c << " type " << static_cast<int>(type) << " precision "
                                          << static_cast<int>(precision));
        const auto want = narrow_apart.run(contexts[0], apart, precision);
        if (!want) continue;
        for (const Context& context : contexts) {
          const auto got = narrow_together.run(context, together, precision);
          ASSERT_TRUE(got && same_bits(*got, *want));
        }
      }
    }
  }
}

TEST_P(HeadsInTurn, HaveTheBitsOfHeadsApartOfInt8) {
  Random random(73);
  int in_turn = 0;
  for (int repeat = 0; repeat < thinned(40, 8, 6); ++repeat) {
    const Case c = draw_case(random);
    SCOPED_TRACE(::testing::Message() << c);
    const Int8Problem apart(c), together(side_by_side(c));
    const Outcome want = apart.run(contexts[0], Pipeline::decode);
    for (const Context& context : contexts) {
      ASSERT_TRUE(same_bits(together.run(context, Pipeline::decode), want));
      in_turn += most_heads(context, together.args(Pipeline::decode)) > 1;
    }
  }
  EXPECT_GT(in_turn, 0);
}

INSTANTIATE_TEST_SUITE_P(Isas, HeadsInTurn, ::testing::ValuesIn(host_isas()), StringName());

/// One sequence of as many keys, in rows of `heads` heads of D = 128.
Case decode_of(std::int64_t heads, std::int64_t keys) {
  Case c;
  c.kv_heads = heads, c.q_heads = 2 * heads;
  c.kv_len = keys;
  c.head_dim = c.v_head_dim = 128;
  c.k_layout = c.v_layout = Layout::bshd;
  return c;
}

Context with_cores(int cores) {
  ContextOptions options;
  options.topology = flat_machine(cores);
  return context_of(options);
}

// 4 KiB of f32 are 8 heads; the parts of 9 heads are as equal as they can be.
TEST(HeadsOfATask, AreThoseOfFourKilobytes) {
  const Context one = with_cores(1);
  const auto heads_of = [&](std::int64_t heads) {
    const Problem problem(decode_of(heads, 40));
    return most_heads(one, problem.args());
  };
  EXPECT_EQ(heads_of(1), 1);
  EXPECT_EQ(heads_of(2), 2);
  EXPECT_EQ(heads_of(8), 8);
  EXPECT_EQ(heads_of(9), 5);
  EXPECT_EQ(heads_of(32), 8);
  Case wide = decode_of(8, 40);
  wide.head_dim = 512;
  EXPECT_EQ(most_heads(one, Problem(wide).args()), 2);
  Case alone = decode_of(8, 40);
  alone.v_layout = Layout::bhsd;
  EXPECT_EQ(most_heads(one, Problem(alone).args()), 1);
}

// 8 splits of 512 keys: 8 heads a task leave 8 pieces, 4 heads 16, and so on.
TEST(HeadsOfATask, LeaveEachWorkerFourSplits) {
  const Problem problem(decode_of(8, 4096));
  EXPECT_EQ(most_heads(with_cores(2), problem.args()), 8);
  EXPECT_EQ(most_heads(with_cores(3), problem.args()), 4);
  EXPECT_EQ(most_heads(with_cores(4), problem.args()), 4);
  EXPECT_EQ(most_heads(with_cores(8), problem.args()), 2);
  EXPECT_EQ(most_heads(with_cores(17), problem.args()), 1);
}

TEST(HeadsOfATask, HaveOneHome) {
  ContextOptions options;
  options.topology = "numa:2 core:1 pu:1";
  const Context context = context_of(options);
  const Problem problem(decode_of(8, 4096));
  const std::int32_t homes[] = {0, 0, 0, 1, 1, 1, 1, 1};
  AttentionArgs args = problem.args();
  args.kv_domains = homes;
  Plan made;
  ASSERT_TRUE(plan(context, args, &made).ok());
  for (const PlannedTask& task : impl_of(made)->partition.tasks)
    EXPECT_EQ(homes[task.kv_head], homes[task.kv_head + task.heads - 1]);
  EXPECT_EQ(impl_of(made)->partition.most_heads(), 5);
  const Outcome want = problem.run(with_cores(1));
  problem.poison_outputs();
  ASSERT_TRUE(made.run(args).ok());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

TEST(HeadsOfATask, CostAsMuchAsApart) {
  const Context context = with_cores(2);
  Case c = decode_of(8, 9000);
  const Problem together(c);
  c.k_layout = c.v_layout = Layout::bhsd;
  const Problem apart(c);
  const auto cost = [&](const Problem& problem) {
    Plan made;
    EXPECT_TRUE(plan(context, problem.args(), &made).ok());
    std::int64_t sum = 0;
    for (const scheduler::Task& task : impl_of(made)->partition.costs) sum += task.cost;
    return sum;
  };
  EXPECT_EQ(cost(together), cost(apart));
}

// Bytes of all heads count, in explain() and in predictions.
TEST(HeadsOfATask, AreExplained) {
  const Problem problem(decode_of(8, 1000));
  Plan made;
  ASSERT_TRUE(plan(with_cores(1), problem.args(), &made).ok());
  const std::string text = made.explain();
  EXPECT_NE(text.find("tasks: 1, 0 row blocks split along the keys, up to 8 KV heads a task\n"),
            std::string::npos)
      << text;
  const std::int64_t bytes = 1000 * 8 * 2 * 128 * 4;
  EXPECT_NE(text.find("memory: reads " + std::to_string(bytes) + " bytes of K and V locally, 0 remotely"),
            std::string::npos)
      << text;
  const double read =
      made.predict({.core_flops = 1e15, .core_bandwidth = 1e9, .domain_bandwidth = 1e9}).seconds;
  EXPECT_NEAR(read, static_cast<double>(bytes) / 1e9, 1e-9);
}

}  // namespace
}  // namespace kumiko::test
