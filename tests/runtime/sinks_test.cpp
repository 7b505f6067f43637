// SPDX-License-Identifier: Apache-2.0
// Attention sinks and the forms of the LSE: what is special about them. Ordinary values are in sweep_test
// and dtype_test (against fp64), packed and paged ones in serving_test.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

// More than one tile and more than one split.
const std::int64_t kRows = thinned(90, 60, 60), kKeys = thinned(700, 540, 540);

struct Sinks : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");

  static Case shape(std::int64_t q_len, std::int64_t kv_len) {
    Case c;
    c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = q_len, c.kv_len = kv_len;
    c.head_dim = 20, c.v_head_dim = 12;
    return c;
  }
  Outcome run(const Problem& problem, AttentionArgs args, Pipeline pipeline) const {
    args.pipeline = pipeline;
    return problem.run(context, args);
  }
};

TEST_P(Sinks, OfMinusInfinityChangeNoBit) {
  const std::vector<float> sinks(4, -kInf);
  for (const std::int64_t q_len : {std::int64_t{1}, std::int64_t{7}, kRows}) {
    const Problem problem(shape(q_len, kKeys + 400));
    for (const Pipeline pipeline : kPipelines) {
      AttentionArgs args = problem.args();
      const Outcome want = run(problem, args, pipeline);
      args.sinks = sinks.data();
      EXPECT_TRUE(same_bits(run(problem, args, pipeline), want));
    }
  }
}

TEST_P(Sinks, OfInfinityLeaveNothing) {
  const std::vector<float> sinks{kInf, 0.0f, std::numeric_limits<float>::max(), -1.0f};
  for (const std::int64_t q_len : {std::int64_t{1}, kRows}) {
    const Problem problem(shape(q_len, kKeys));
    problem.v.at(1, 0, 0, 3) = std::numeric_limits<float>::quiet_NaN();
    for (const Pipeline pipeline : kPipelines) {
      AttentionArgs args = problem.args();
      args.sinks = sinks.data();
      const Outcome got = run(problem, args, pipeline);
      for (std::size_t r = 0; r < got.lse.size(); ++r) {
        const std::size_t head = r / static_cast<std::size_t>(q_len) % 4;
        const bool is_second = r >= 4 * static_cast<std::size_t>(q_len);
        if (head % 2 == 0) {
          EXPECT_EQ(got.lse[r], sinks[head]);
        } else {
          EXPECT_TRUE(std::isfinite(got.lse[r]));
        }
        for (std::size_t d = 0; d < 12; ++d) {
          const float out = got.out[r * 12 + d];
          if (is_second && head < 2 && d == 3) {
            EXPECT_TRUE(std::isnan(out));
          } else if (head % 2 == 0) {
            EXPECT_TRUE(out == 0.0f && !std::signbit(out));
          } else {
            EXPECT_TRUE(std::isfinite(out) && out != 0.0f);
          }
        }
      }
    }
  }
}

// The definition: a key with the sink as its score and a value of 0, but for the sink's place in the order.
TEST_P(Sinks, ActAsAKeyWithoutAValue) {
  const std::vector<float> sinks{-2.0f, 0.5f, 9.0f, 60.0f};
  for (const std::int64_t q_len : {std::int64_t{1}, kRows}) {
    Case c = shape(q_len, kKeys + 1);
    c.bias = TermLayout::full;
    const Problem problem(c);
    for (std::int64_t b = 0; b < 2; ++b) {
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t d = 0; d < 20; ++d) problem.k.at(b, h, kKeys, d) = 0.0f;
        for (std::int64_t d = 0; d < 12; ++d) problem.v.at(b, h, kKeys, d) = 0.0f;
      }
    }
    problem.bias.fill([&](std::int64_t, std::int64_t h, std::int64_t, std::int64_t j) {
      return j == kKeys ? sinks[static_cast<std::size_t>(h)] : 0.0f;
    });
    for (const Pipeline pipeline : kPipelines) {
      const Outcome want = run(problem, problem.args(), pipeline);
      const std::vector<std::int32_t> used(2, static_cast<std::int32_t>(kKeys));
      AttentionArgs args = problem.args();
      args.bias = {};
      args.seqused_k = used.data();
      args.sinks = sinks.data();
      const Outcome got = run(problem, args, pipeline);
      for (std::size_t e = 0; e < got.out.size(); ++e) ASSERT_NEAR(got.out[e], want.out[e], 2e-6) << e;
      for (std::size_t r = 0; r < got.lse.size(); ++r) ASSERT_NEAR(got.lse[r], want.lse[r], 1e-5) << r;
    }
  }
}

TEST_P(Sinks, OfRowsThatSeeNoKey) {
  const std::vector<float> sinks{1.5f, -kInf, kInf, std::numeric_limits<float>::quiet_NaN()};
  for (const bool counts : {true, false}) {
    for (const std::int64_t q_len : {std::int64_t{1}, kRows}) {
      Case c = shape(q_len, 300);
      c.seqused = {0, 300};
      const Problem problem(c);
      for (const Pipeline pipeline : kPipelines) {
        AttentionArgs args = problem.args();
        args.sinks = sinks.data();
        args.lse_with_sink = counts;
        const Outcome got = run(problem, args, pipeline);
        for (std::size_t r = 0; r < 4 * static_cast<std::size_t>(q_len); ++r) {
          const float sink = sinks[r / static_cast<std::size_t>(q_len)], lse = got.lse[r];
          EXPECT_TRUE(!counts ? lse == -kInf : lse == sink || (std::isnan(lse) && std::isnan(sink))) << lse;
          for (std::size_t d = 0; d < 12; ++d) EXPECT_EQ(got.out[r * 12 + d], 0.0f);
        }
        EXPECT_TRUE(std::isnan(got.out.back()));  // a sink of NaN, with keys
        EXPECT_EQ(std::isnan(got.lse.back()), counts);
      }
    }
  }
}

// Halves of the keys, the sink with one of them, merged.
TEST_P(Sinks, OfOneStateMergeIntoTheWhole) {
  Case c = shape(40, 900);
  c.sinks = true;
  const Problem whole(c), first(c), second(c);
  const std::vector<std::int32_t> used{400, 400};
  AttentionArgs head = first.args(), tail = second.args();
  head.seqused_k = used.data();
  tail.sinks = nullptr;
  for (ConstTensor* t : {&tail.k, &tail.v}) {
    t->data = static_cast<const float*>(t->data) + 400 * t->stride[2];
    t->shape[2] = 500;
  }
  const Outcome one = run(whole, whole.args(), Pipeline::automatic);
  run(first, head, Pipeline::automatic);
  run(second, tail, Pipeline::automatic);
  const AttentionState states[] = {
      {{head.out.data, head.out.shape, head.out.stride, DataType::f32}, head.lse.data, head.lse.stride},
      {{tail.out.data, tail.out.shape, tail.out.stride, DataType::f32}, tail.lse.data, tail.lse.stride}};
  ASSERT_TRUE(merge_states(context, states, first.out.output(), first.lse.view()).ok());
  const Outcome merged = first.outcome();
  for (std::size_t e = 0; e < one.out.size(); ++e) ASSERT_NEAR(merged.out[e], one.out[e], 2e-6) << e;
  for (std::size_t r = 0; r < one.lse.size(); ++r) ASSERT_NEAR(merged.lse[r], one.lse[r], 1e-5) << r;
}

TEST_P(Sinks, OutsideTheLseLeaveItAsItIs) {
  for (const std::int64_t q_len : {std::int64_t{1}, kRows}) {
    const Problem problem(shape(q_len, kKeys));
    const std::vector<float> sinks{1.0f, 2.0f, 3.0f, 90.0f};
    for (const Pipeline pipeline : kPipelines) {
      AttentionArgs args = problem.args();
      args.sinks = sinks.data();
      const Outcome with = run(problem, args, pipeline);
      args.lse_with_sink = false;
      const Outcome outside = run(problem, args, pipeline);
      args.sinks = nullptr;
      const Outcome without = run(problem, args, pipeline);
      EXPECT_TRUE(same_bits(outside.out, with.out));
      EXPECT_TRUE(same_bits(outside.lse, without.lse));
      for (std::size_t r = 0; r < with.lse.size(); ++r) EXPECT_GT(with.lse[r], without.lse[r]);
    }
  }
}

TEST_P(Sinks, TheBaseOfTheLseIsAFactorOfIt) {
  for (const std::int64_t q_len : {std::int64_t{1}, kRows}) {
    const Problem problem(shape(q_len, kKeys));
    for (const Pipeline pipeline : kPipelines) {
      AttentionArgs args = problem.args();
      const Outcome natural = run(problem, args, pipeline);
      args.lse_base = LseBase::two;
      const Outcome base_2 = run(problem, args, pipeline);
      EXPECT_TRUE(same_bits(base_2.out, natural.out));
      for (std::size_t r = 0; r < natural.lse.size(); ++r)
        EXPECT_NEAR(base_2.lse[r], natural.lse[r] * 1.4426950408889634, 2e-6 * std::abs(natural.lse[r])) << r;
    }
  }
}

// [total_q, heads], as engines keep it.
TEST_P(Sinks, StridesMakeAnyOrderOfTheLse) {
  Case c = shape(30, 70);
  c.batch = 1, c.is_causal = true;
  const Problem problem(c);
  AttentionArgs args = problem.args();
  const Outcome want = run(problem, args, Pipeline::automatic);
  std::vector<float> lse(30 * 4);
  args.lse = {lse.data(), {0, 1, 4}};
  run(problem, args, Pipeline::automatic);
  for (std::size_t i = 0; i < 30; ++i)
    for (std::size_t h = 0; h < 4; ++h) ASSERT_EQ(lse[i * 4 + h], want.lse[h * 30 + i]);
}

TEST(SinksOfAPlan, AreNamed) {
  Case c;
  c.sinks = true;
  const Problem problem(c);
  Plan made;
  ASSERT_TRUE(plan(context_of("reference", "serial"), problem.args(), &made).ok());
  EXPECT_NE(made.explain().find(", sinks"), std::string::npos) << made.explain();
}

INSTANTIATE_TEST_SUITE_P(Isa, Sinks, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
