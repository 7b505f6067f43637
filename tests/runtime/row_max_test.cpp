// SPDX-License-Identifier: Apache-2.0
// The largest score of each query: what is special about it. Ordinary values are in sweep_test (against
// fp64); their bits in bitwise_test, chunking_test and serving_test.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <iterator>
#include <vector>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

/// Decode, and tiles.
const std::int64_t kLengths[] = {1, kThinned ? 20 : 90};
std::vector<Pipeline> pipelines() {
  if (kThinned) return {Pipeline::automatic, Pipeline::three_pass};
  return {std::begin(kPipelines), std::end(kPipelines)};
}

struct RowMax : ::testing::TestWithParam<std::string> {
  Context context = context_of(GetParam(), "openmp");

  static Case shape(std::int64_t q_len, std::int64_t kv_len) {
    Case c;
    c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = q_len, c.kv_len = kv_len;
    c.head_dim = 20, c.v_head_dim = 12;
    c.row_max = GuardedLse::Layout::padded;
    return c;
  }
  Outcome run(const Problem& problem, AttentionArgs args, Pipeline pipeline) const {
    args.pipeline = pipeline;
    return problem.run(context, args);
  }
};

TEST_P(RowMax, DoesNotCountSinksAndIsNaturalWhateverTheLseIs) {
  const std::vector<float> sinks{9.0f, kInf, -kInf, kNan};
  for (const std::int64_t q_len : kLengths) {
    const Problem problem(shape(q_len, 530));
    for (const Pipeline pipeline : pipelines()) {
      AttentionArgs args = problem.args();
      const Outcome want = run(problem, args, pipeline);
      for (std::size_t r = 0; r < want.lse.size(); ++r) EXPECT_GE(want.lse[r], want.row_max[r]);
      args.sinks = sinks.data();
      EXPECT_TRUE(same_bits(run(problem, args, pipeline).row_max, want.row_max));
      args.lse_base = LseBase::two, args.lse.data = nullptr;
      EXPECT_TRUE(same_bits(run(problem, args, pipeline).row_max, want.row_max));
    }
  }
}

TEST_P(RowMax, WithoutStridesIsContiguous) {
  const Problem problem(shape(7, 40));
  AttentionArgs args = problem.args();
  const Outcome want = run(problem, args, Pipeline::automatic);
  std::vector<float> contiguous(want.row_max.size());
  args.row_max = {contiguous.data(), {}};
  run(problem, args, Pipeline::automatic);
  EXPECT_TRUE(same_bits(contiguous, want.row_max));
}

// LSE, maximum and sinks, each alone and together: a row without any of them ends in another way.
TEST_P(RowMax, EndsOfRowsDoNotDependOnWhatElseIsWanted) {
  const std::vector<float> sinks{0.5f, -1.0f, 2.0f, 0.0f};
  for (const std::int64_t q_len : kLengths) {
    const Problem problem(shape(q_len, 530));
    for (const Pipeline pipeline : pipelines()) {
      for (const bool with_sinks : {false, true}) {
        AttentionArgs args = problem.args();
        if (with_sinks) args.sinks = sinks.data();
        const Outcome want = run(problem, args, pipeline);
        for (const bool with_lse : {false, true}) {
          for (const bool with_maximum : {false, true}) {
            AttentionArgs some = args;
            if (!with_lse) some.lse.data = nullptr;
            if (!with_maximum) some.row_max.data = nullptr;
            const Outcome got = run(problem, some, pipeline);
            EXPECT_TRUE(same_bits(got.out, want.out));
            if (with_lse) {
              EXPECT_TRUE(same_bits(got.lse, want.lse));
            }
            if (with_maximum) {
              EXPECT_TRUE(same_bits(got.row_max, want.row_max));
            }
          }
        }
      }
    }
  }
}

// A query and keys of which a single one is large: the maximum is its score, in whichever split it lies.
TEST_P(RowMax, IsTheScoreOfTheKeyThatHasIt) {
  for (const std::int64_t q_len : kLengths) {
    const std::int64_t kv_len = kThinned ? 530 : 1100;
    const Problem problem(shape(q_len, kv_len));
    problem.q.fill(1.0f);
    problem.k.fill(-0.5f);
    for (const std::int64_t key :
         {std::int64_t{0}, std::int64_t{300}, std::int64_t{511}, std::int64_t{512}, kv_len - 1}) {
      if (kThinned && key == 300) continue;
      for (std::int64_t d = 0; d < 20; ++d) problem.k.at(1, 1, key, d) = 0.25f;
      AttentionArgs args = problem.args();
      args.scale = 2.0f;
      for (const Pipeline pipeline : pipelines()) {
        const Outcome got = run(problem, args, pipeline);
        for (std::size_t r = 0; r < got.row_max.size(); ++r) {
          const bool has_it = r >= 6 * static_cast<std::size_t>(q_len);  // heads 2 and 3 of the second
          ASSERT_NEAR(got.row_max[r], has_it ? 10.0f : -20.0f, 1e-5) << r;
        }
      }
      for (std::int64_t d = 0; d < 20; ++d) problem.k.at(1, 1, key, d) = -0.5f;
    }
  }
}

TEST_P(RowMax, OfLowScoresAndOfNoKeys) {
  for (const std::int64_t q_len : kLengths) {
    Case c = shape(q_len, 300);
    c.seqused = {0, 300};
    c.bias = TermLayout::full;
    const Problem problem(c);
    problem.q.fill(0.0f);
    // Head 0: the lowest number that the units of the scores can hold; 1: hidden; 2 and 3: one key is not.
    problem.bias.fill([](std::int64_t, std::int64_t h, std::int64_t, std::int64_t j) {
      return h == 0 ? -2e38f : h > 1 && j == 270 ? -1e30f : -kInf;
    });
    for (const Pipeline pipeline : pipelines()) {
      const Outcome got = run(problem, problem.args(), pipeline);
      const auto rows = static_cast<std::size_t>(q_len);
      for (std::size_t r = 0; r < 8 * rows; ++r) {
        const std::size_t head = r / rows;
        if (head < 4 || head == 5) {
          EXPECT_EQ(got.row_max[r], -kInf) << r;
        } else {
          EXPECT_FLOAT_EQ(got.row_max[r], head == 4 ? -2e38f : -1e30f) << r;
        }
      }
    }
  }
}

TEST_P(RowMax, IsNanWhereAScoreIsNanOrInfinite) {
  for (const std::int64_t q_len : kLengths) {
    const Problem problem(shape(q_len, 600));
    problem.q.fill(1.0f);
    for (const float x : {kNan, kInf, -kInf}) {
      for (const std::int64_t key : {0, 599}) {
        const float kept = problem.k.at(1, 0, key, 3);
        problem.k.at(1, 0, key, 3) = x;
        for (const Pipeline pipeline : pipelines()) {
          const Outcome got = run(problem, problem.args(), pipeline);
          for (std::size_t r = 0; r < got.row_max.size(); ++r) {
            const std::size_t head = r / static_cast<std::size_t>(q_len);
            const bool is_nan = (head == 4 || head == 5) && x != -kInf;  // -inf hides its key
            ASSERT_EQ(std::isnan(got.row_max[r]), is_nan) << r;
            ASSERT_TRUE(is_nan || std::isfinite(got.row_max[r])) << r;
            ASSERT_TRUE(!is_nan || std::bit_cast<std::uint32_t>(got.row_max[r]) == 0x7fc00000u) << r;
          }
        }
        problem.k.at(1, 0, key, 3) = kept;
      }
    }
  }
}

// Products that are too small for f32 round to a zero with their sign: which of two zeros is the larger one
// would depend on the order of the keys in a tile or a vector.
TEST_P(RowMax, IsPlusZeroWhicheverZerosTheScoresAre) {
  for (const std::int64_t q_len : kLengths) {
    const Problem problem(shape(q_len, 530));
    problem.q.fill(0x1p-90f);
    for (const std::int64_t plus : {8, 530}) {  // every so many keys
      problem.k.fill(0.0f);
      for (std::int64_t key = 0; key < 530; ++key)
        problem.k.at(0, 0, key, 19) = problem.k.at(1, 1, key, 19) = key % plus == 0 ? 0x1p-90f : -0x1p-90f;
      for (const Pipeline pipeline : pipelines()) {
        for (const float maximum : run(problem, problem.args(), pipeline).row_max)
          ASSERT_EQ(std::bit_cast<std::uint32_t>(maximum), 0u) << plus;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, RowMax, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
