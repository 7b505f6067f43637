// SPDX-License-Identifier: Apache-2.0
// What sequences see beyond is_causal and one window: causality of their own, prefixes, first tokens. The
// same keys hidden by a boolean mask give the same bits.
#include <gtest/gtest.h>

#include <cmath>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Visibility : ::testing::TestWithParam<std::string> {
  std::vector<Context> contexts = contexts_of(GetParam());
  Random random{test_seed(404)};

  Case shape() {
    Case c = draw_small_case(random);
    draw_sequence_visibility(random, &c);
    return c;
  }
  Outcome run(const Problem& problem, const AttentionArgs& args, Pipeline pipeline) {
    AttentionArgs with = args;
    with.pipeline = pipeline;
    return problem.run(random.pick(contexts), with);
  }
};

TEST_P(Visibility, HasTheBitsOfAMask) {
  for (int repeat = 0; repeat < thinned(60, 6, 5); ++repeat) {
    Case c = shape();
    c.mask = TermLayout::full;
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    AttentionArgs seen = problem.args();
    seen.mask = {};
    problem.mask.fill([&](std::int64_t b, std::int64_t, std::int64_t i, std::int64_t j) {
      return sees(seen, b, i, j) ? 1.0f : 0.0f;
    });
    AttentionArgs by_mask = problem.args();
    by_mask.is_causal = false;
    by_mask.window_left = by_mask.window_right = -1, by_mask.window_sink_tokens = 0;
    by_mask.causal_sequences = nullptr, by_mask.prefix_lens = nullptr;
    const Outcome want = run(problem, by_mask, Pipeline::automatic);
    for (const Pipeline pipeline : kPipelines)
      ASSERT_TRUE(same_bits(run(problem, seen, pipeline), want)) << static_cast<int>(pipeline);
  }
}

// One key of NaN, seen by some rows, all or none.
TEST_P(Visibility, ANonFiniteKeyReachesTheRowsThatSeeIt) {
  for (int repeat = 0; repeat < thinned(60, 6, 5); ++repeat) {
    Case c = shape();
    if (c.kv_len == 0) continue;
    c.batch = 1, c.kv_heads = 1;
    if (!c.seqused.empty()) c.seqused.resize(1);
    if (!c.causal_sequences.empty()) c.causal_sequences.resize(1);
    if (!c.prefix_lens.empty()) c.prefix_lens.resize(1);
    const std::int64_t bad = random.between(0, used_keys(Problem(c).args(), 0));
    if (bad >= c.kv_len) continue;
    SCOPED_TRACE(::testing::Message() << c << ", key " << bad);
    const Problem problem(c);
    for (const Pipeline pipeline : kPipelines) {
      for (std::int64_t d = 0; d < c.head_dim; ++d) problem.k.at(0, 0, bad, d) = 0.25f;
      for (std::int64_t d = 0; d < c.v_head_dim; ++d) problem.v.at(0, 0, bad, d) = 0.25f;
      const Outcome clean = run(problem, problem.args(), pipeline);
      for (std::int64_t d = 0; d < c.head_dim; ++d) problem.k.at(0, 0, bad, d) = kNan;
      for (std::int64_t d = 0; d < c.v_head_dim; ++d) problem.v.at(0, 0, bad, d) = kNan;
      const Outcome got = run(problem, problem.args(), pipeline);
      for (std::size_t r = 0; r < got.lse.size(); ++r) {
        const bool is_seen = sees(problem.args(), 0, static_cast<std::int64_t>(r) % c.q_len, bad);
        ASSERT_EQ(std::isnan(got.lse[r]), is_seen) << "row " << r;
        for (std::size_t d = 0; d < static_cast<std::size_t>(c.v_head_dim); ++d) {
          const std::size_t e = r * static_cast<std::size_t>(c.v_head_dim) + d;
          if (is_seen) {
            ASSERT_TRUE(std::isnan(got.out[e])) << "row " << r;
          } else {
            ASSERT_EQ(got.out[e], clean.out[e]) << "row " << r;
          }
        }
      }
    }
  }
}

// A prompt in chunks, the first of which has the prefix.
TEST_P(Visibility, ChunksHaveTheBitsOfOnePrefill) {
  for (int repeat = 0; repeat < thinned(20, 3, 2); ++repeat) {
    Case c;
    c.q_heads = 4, c.kv_heads = 2, c.head_dim = 23, c.v_head_dim = 20;
    c.q_len = random.between(300, 700), c.kv_len = c.q_len + random.between(0, 300);
    const std::int64_t prefix = random.between(0, c.q_len / 2);
    c.prefix_lens = {static_cast<std::int32_t>(c.kv_len - c.q_len + prefix)};
    c.causal_sequences = {1};
    if (random.one_in(2)) c.window_left = random.between(0, 600);
    if (random.one_in(2)) c.window_sink_tokens = random.pick({1, 4, 33, 300});
    c.seed = random.bits();
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    const Outcome whole = run(problem, problem.args(), Pipeline::automatic);
    for (std::int64_t first = 0, last = 0; first < c.q_len; first = last) {
      last = std::min(c.q_len, first + random.pick({std::int64_t{1}, random.between(2, 200)}));
      if (first == 0) last = std::max(last, prefix + 1);
      AttentionArgs part =
          problem.args(random.pick({Pipeline::automatic, Pipeline::online, Pipeline::decode}));
      part.q.data = static_cast<const float*>(part.q.data) + first * part.q.stride[2];
      part.q.shape[2] = last - first;
      part.k.shape[2] = part.v.shape[2] = c.kv_len - c.q_len + last;
      ASSERT_TRUE(gives_rows(random.pick(contexts), part, whole, first, last))
          << "rows " << first << ".." << last;
    }
  }
}

// Windows far from the first tokens, within a block of them, and across blocks and splits.
TEST_P(Visibility, FirstTokensAndAWindowHaveTheBitsOfAMask) {
  for (int repeat = 0; repeat < thinned(80, 8, 5); ++repeat) {
    Case c;
    c.kv_heads = random.between(1, 2), c.q_heads = c.kv_heads * random.between(1, 3);
    c.q_len = random.pick({std::int64_t{1}, random.between(1, 8), random.between(1, 300)});
    c.kv_len = random.pick({random.between(1, 255), random.between(256, 1100), random.between(1500, 3000)});
    c.head_dim = random.between(1, 40), c.v_head_dim = random.between(1, 40);
    c.is_causal = random.one_in(2);
    c.window_left = random.pick<std::int64_t>({0, 1, 30, 200, 256, 700});
    if (random.one_in(3)) c.window_right = random.pick<std::int64_t>({0, 40, 300});
    c.window_sink_tokens = random.pick<std::int64_t>({1, 2, 3, 4, 8, 31, 64, 250, 256, 257, 511, 512, 600});
    if (random.one_in(3)) c.softcap = 3.0f;
    if (random.one_in(3)) c.alibi = 1;
    if (random.one_in(3)) c.bias = TermLayout::heads;
    c.mask = TermLayout::positions;
    c.seed = random.bits();
    SCOPED_TRACE(::testing::Message() << c);
    const Problem problem(c);
    AttentionArgs seen = problem.args();
    const bool keeps_mask = random.one_in(3);
    if (!keeps_mask) seen.mask = {};
    const Problem other(c);
    other.mask.fill([&](std::int64_t, std::int64_t, std::int64_t i, std::int64_t j) {
      return sees(seen, 0, 0, i, j) ? 1.0f : 0.0f;
    });
    AttentionArgs by_mask = problem.args();
    by_mask.mask = other.args().mask;
    by_mask.is_causal = false;
    by_mask.window_left = by_mask.window_right = -1, by_mask.window_sink_tokens = 0;
    const Outcome want = run(problem, by_mask, Pipeline::automatic);
    for (const Pipeline pipeline : kPipelines)
      ASSERT_TRUE(same_bits(run(problem, seen, pipeline), want)) << static_cast<int>(pipeline);
  }
}

// Rows that end before a block which first tokens of later rows lie in.
TEST_P(Visibility, FirstTokensInBlocksThatSomeRowsDoNotReach) {
  Case c;
  // Row i stands at key i + 5, so that tasks of a multiple of 8 rows lie across the border of two blocks.
  c.q_len = 600, c.kv_len = 605, c.is_causal = true, c.window_left = 20, c.window_sink_tokens = 550;
  const Problem problem(c);
  AttentionArgs all = problem.args();
  const Outcome want = run(problem, all, Pipeline::online);
  for (const Pipeline pipeline : kPipelines)
    EXPECT_TRUE(same_bits(run(problem, all, pipeline), want)) << static_cast<int>(pipeline);
  all.window_sink_tokens = 0, all.window_left = -1;  // Rows before 566 see all that causality shows.
  const Outcome causal = run(problem, all, Pipeline::online);
  for (std::size_t row = 0; row < 566; ++row) EXPECT_EQ(causal.lse[row], want.lse[row]) << row;
  problem.v.at(0, 0, 255, 0) = kNan;  // the last before a block
  for (const Pipeline pipeline : kPipelines) {
    const Outcome got = run(problem, problem.args(), pipeline);
    for (std::size_t row = 0; row < 600; ++row)
      EXPECT_EQ(std::isnan(got.out[row * static_cast<std::size_t>(c.v_head_dim)]), row >= 250) << row;
  }
}

// A far window costs what the keys that are seen cost.
TEST(VisibilityOfAPlan, HiddenSplitsHaveNoTasksAndNoStates) {
  Case c;
  c.kv_len = 40'000, c.q_heads = 2, c.head_dim = 8, c.v_head_dim = 8;
  c.window_left = 2000, c.window_sink_tokens = 4, c.is_causal = true;
  const Problem problem(c);
  ContextOptions options;
  options.topology = "core:4 pu:1";
  Plan made;
  ASSERT_TRUE(plan(context_of(options), problem.args(), &made).ok());
  const std::string text = made.explain();
  EXPECT_NE(text.find(", first 4 keys besides the window\n"), std::string::npos) << text;
  // 2001 keys of the window and 4 before it, of 16 floats.
  EXPECT_NE(
      text.find("memory: reads " + std::to_string(2005 * 16 * 4) + " bytes of K and V locally, 0 remotely"),
      std::string::npos)
      << text;
  // Four splits of the window, one of them of parts of two, and one of the first tokens.
  EXPECT_LE(impl_of(made)->partition.partial_floats, 2 * 6 * kernels::partial_size(8));
}

TEST(VisibilityOfAPlan, IsNamed) {
  Case c;
  c.batch = 3, c.kv_len = 20;
  c.causal_sequences = {1, 0, 1}, c.prefix_lens = {3, 0, 0};
  const Problem problem(c);
  Plan made;
  ASSERT_TRUE(plan(context_of("reference", "serial"), problem.args(), &made).ok());
  EXPECT_NE(made.explain().find(", causal in 2 sequences, prefixes\n"), std::string::npos) << made.explain();
}

INSTANTIATE_TEST_SUITE_P(Isa, Visibility, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
