// SPDX-License-Identifier: Apache-2.0
// Edge cases of softcap, bias, ALiBi and mask; the sweep checks ordinary values.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Terms : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");

  Case with_mask(std::int64_t q_len, std::int64_t kv_len) {
    Case c;
    c.q_heads = 2, c.q_len = q_len, c.kv_len = kv_len, c.head_dim = 20, c.v_head_dim = 12;
    c.mask = TermLayout::positions;
    return c;
  }
};

// A masked key may hold anything: rows that do not see it are as with an ordinary key.
TEST_P(Terms, AMaskedNonFiniteKeyTouchesOnlyTheRowsThatSeeIt) {
  for (const std::int64_t q_len : {1, 5, 40}) {
    const Problem problem(with_mask(q_len, 300));
    constexpr std::int64_t kBad = 130;  // only the last query sees it
    for (std::int64_t i = 0; i < q_len; ++i) problem.mask.set(0, 0, i, kBad, i == q_len - 1 ? 1.0f : 0.0f);
    for (const Pipeline pipeline : kPipelines) {
      for (const float bad : {kInf, -kInf, std::numeric_limits<float>::quiet_NaN()}) {
        for (std::int64_t d = 0; d < 20; ++d) problem.k.at(0, 0, kBad, d) = 0.5f;
        for (std::int64_t d = 0; d < 12; ++d) problem.v.at(0, 0, kBad, d) = 0.5f;
        const Outcome clean = problem.run(context, pipeline);
        for (std::int64_t d = 0; d < 20; ++d)
          problem.k.at(0, 0, kBad, d) = std::numeric_limits<float>::quiet_NaN();
        for (std::int64_t d = 0; d < 12; ++d) problem.v.at(0, 0, kBad, d) = bad;
        const Outcome got = problem.run(context, pipeline);
        for (std::size_t e = 0; e < got.out.size(); ++e) {
          const bool sees = static_cast<std::int64_t>(e / 12) % q_len == q_len - 1;
          if (sees) {
            ASSERT_TRUE(std::isnan(got.out[e])) << e;
          } else {
            ASSERT_EQ(got.out[e], clean.out[e]) << e;
          }
        }
      }
    }
  }
}

TEST_P(Terms, RowsWhoseKeysAreAllMaskedAreZeroWithLseMinusInfinity) {
  for (const std::int64_t q_len : {1, 3, 60}) {
    const Problem problem(with_mask(q_len, 700));
    for (std::int64_t i = 0; i < q_len; i += 2)
      for (std::int64_t j = 0; j < 700; ++j) problem.mask.set(0, 0, i, j, 0.0f);
    for (const Pipeline pipeline : kPipelines) {
      const Outcome got = problem.run(context, pipeline);
      for (std::size_t r = 0; r < got.lse.size(); ++r) {
        const bool empty = static_cast<std::int64_t>(r) % q_len % 2 == 0;
        EXPECT_EQ(got.lse[r] == -kInf, empty) << r;
        for (std::size_t d = 0; d < 12; ++d) EXPECT_EQ(got.out[r * 12 + d] == 0.0f, empty) << r;
      }
    }
  }
}

// A bias of -inf gives a weight of 0, and a row with only such keys sees no key.
TEST_P(Terms, ABiasOfMinusInfinityHidesAsAMaskDoes) {
  for (const std::int64_t mask_block : {1, 5, 32, 64}) {
    SCOPED_TRACE(::testing::Message() << "squares of " << mask_block);
    Case c = with_mask(50, 300);
    c.mask_block = mask_block;
    const Problem masked(c);
    c.mask = TermLayout::none;
    c.bias = TermLayout::positions;
    const Problem biased(c);
    for (const GuardedTensor Problem::*t : {&Problem::q, &Problem::k, &Problem::v}) {
      const GuardedTensor &from = masked.*t, &to = biased.*t;
      for (std::int64_t h = 0; h < from.shape()[1]; ++h)
        for (std::int64_t s = 0; s < from.shape()[2]; ++s)
          for (std::int64_t d = 0; d < from.shape()[3]; ++d) to.at(0, h, s, d) = from.at(0, h, s, d);
    }
    for (std::int64_t i = 0; i < 50; ++i)
      for (std::int64_t j = 0; j < 300; ++j)
        biased.bias.set(0, 0, i, j, sees(masked.args(), 0, 0, i, j) ? 0.0f : -kInf);
    for (const Pipeline pipeline : kPipelines)
      EXPECT_TRUE(same_bits(biased.run(context, pipeline), masked.run(context, pipeline)));
  }
}

TEST_P(Terms, AMaskOfOnesABiasOfZerosAndSlopesOfZeroChangeNoBit) {
  for (const std::int64_t window : {-1, 30}) {
    Case c;
    c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = 77, c.kv_len = thinned(600, 600, 300);
    c.is_causal = window < 0, c.window_left = window;
    const Problem plain(c);
    Case with = c;
    with.mask = TermLayout::keys, with.bias = TermLayout::heads, with.alibi = 1;
    const Problem problem(with);
    problem.bias.fill([](auto...) { return 0.0f; });
    problem.mask.fill([](auto...) { return 1.0f; });
    const std::vector<float> slopes(4, 0.0f);
    for (const Pipeline pipeline : kPipelines) {
      const Outcome want = plain.run(context, pipeline);
      // Bits of `which`: mask, bias, slopes.
      for (const int which : {1, 2, 4, 7}) {
        AttentionArgs args = plain.args(pipeline);
        if (which & 1) args.mask = problem.args().mask;
        if (which & 2) args.bias = problem.args().bias;
        if (which & 4) args.alibi_slopes = slopes.data();
        plain.poison_outputs();
        const Status status = attention_forward(context, args);
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(same_bits(plain.outcome(), want)) << "terms " << which << ", window " << window;
      }
    }
  }
}

// For any cap, scale / cap and its products with q and k must not overflow.
TEST_P(Terms, ACapFarBelowTheScoresMakesThemAllEqual) {
  Case c;
  c.q_heads = 2, c.q_len = 9, c.kv_len = 300, c.head_dim = 20, c.v_head_dim = 12;
  c.softcap = 1e-20f;
  const Problem problem(c);
  for (const Pipeline pipeline : kPipelines) {
    const Outcome want = problem.run(context, pipeline);
    for (const float cap :
         {1e-30f, std::numeric_limits<float>::min(), std::numeric_limits<float>::denorm_min()}) {
      AttentionArgs args = problem.args(pipeline);
      args.softcap = cap;
      problem.poison_outputs();
      ASSERT_TRUE(attention_forward(context, args).ok());
      EXPECT_TRUE(same_bits(problem.outcome(), want)) << cap;
    }
  }
}

// alibi_batch_stride may be more than the number of heads.
TEST_P(Terms, SlopesOfSequencesMayLieFarApart) {
  for (const std::int64_t q_len : {1, 40}) {
    Case c;
    c.batch = 3, c.q_heads = 4, c.kv_heads = 2, c.q_len = q_len, c.kv_len = 300, c.head_dim = 20;
    c.alibi = 2;
    const Problem problem(c);
    constexpr std::int64_t kStride = 9;
    std::vector<float> apart(2 * kStride + 4, kNan);
    for (std::int64_t n = 0; n < 12; ++n)
      apart[static_cast<std::size_t>(n / 4 * kStride + n % 4)] = problem.args().alibi_slopes[n];
    for (const Pipeline pipeline : kPipelines) {
      const Outcome want = problem.run(context, pipeline);
      AttentionArgs args = problem.args(pipeline);
      args.alibi_slopes = apart.data(), args.alibi_batch_stride = kStride;
      EXPECT_TRUE(same_bits(problem.run(context, args), want)) << static_cast<int>(pipeline);
    }
  }
}

// A plan is made before the tensors exist.
TEST_P(Terms, PlannedWithoutPointersRunWithThem) {
  Case c = with_mask(20, 40);
  c.bias = TermLayout::full, c.alibi = 2, c.softcap = 4.0f;
  const Problem problem(c);
  const Outcome want = problem.run(context);
  AttentionArgs args = problem.args();
  args.q.data = args.k.data = args.v.data = args.bias.data = args.mask.data = nullptr;
  args.out.data = nullptr;
  Plan plan;
  ASSERT_TRUE(kumiko::plan(context, args, &plan).ok());
  problem.poison_outputs();
  const Status status = plan.run(problem.args());
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(same_bits(problem.outcome(), want));

  AttentionArgs other = problem.args();
  other.softcap = 5.0f;
  EXPECT_EQ(plan.run(other).code(), Code::invalid_argument);
  other = problem.args();
  other.alibi_slopes = nullptr;
  EXPECT_EQ(plan.run(other).code(), Code::invalid_argument);
  other = problem.args();
  other.bias = {};
  EXPECT_EQ(plan.run(other).code(), Code::invalid_argument);
  other = problem.args();
  other.mask.stride[2] = 0;
  EXPECT_EQ(plan.run(other).code(), Code::invalid_argument);
}

INSTANTIATE_TEST_SUITE_P(Isa, Terms, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
