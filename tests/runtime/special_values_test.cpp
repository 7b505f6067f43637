// SPDX-License-Identifier: Apache-2.0
// NaN, infinities, huge and tiny numbers: each reaches exactly the rows it should.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct SpecialValues : ::testing::TestWithParam<std::string> {
  // Every pipeline against fp64: NaNs and infinities exactly where fp64 has them, the rest within the error
  // promise.
  void check(const Problem& problem) {
    const auto fp64 = attention_fp64(problem.args());
    const auto naive = attention_naive_f32(problem.args());
    for (const Pipeline pipeline : kPipelines) {
      SCOPED_TRACE(::testing::Message() << GetParam() << " pipeline " << static_cast<int>(pipeline));
      const Outcome got = problem.run(context_of(GetParam(), "openmp"), pipeline);
      ASSERT_TRUE(meets_error_promise(got.out, got.lse, fp64, naive, nullptr, DataType::f32,
                                      own_arithmetic(GetParam())));
      if (HasFailure()) return;
    }
  }
  // Thins the long lists of cases. The steps are coprime to the lengths of the loops.
  bool taken() { return asked++ % thinned(1, 5, 13) == 0; }
  int asked = 0;
  // Causal, so that a key is seen by some rows of a tile and hidden from their neighbours.
  static Case causal(std::int64_t q_len, std::int64_t kv_len) {
    Case c;
    c.q_heads = 4;
    c.kv_heads = 2;
    c.q_len = q_len;
    c.kv_len = kv_len;
    c.head_dim = 20;
    c.v_head_dim = 12;
    c.is_causal = true;
    return c;
  }
};

TEST_P(SpecialValues, OneBadKeyReachesExactlyTheRowsThatSeeIt) {
  for (const std::int64_t q_len : {1, 3, 50, 130}) {
    const Case c = causal(q_len, 130);
    for (const float bad : {kNan, kInf, -kInf}) {
      for (const std::int64_t j : {0, 1, 63, 64, 79, 128, 129}) {
        if (!taken()) continue;
        SCOPED_TRACE(::testing::Message() << c << " k[0, 1, " << j << ", 3] = " << bad);
        const Problem problem(c);
        problem.k.at(0, 1, j, 3) = bad;  // times q[3] of either sign: +inf for some rows, -inf for others
        ASSERT_NO_FATAL_FAILURE(check(problem));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(SpecialValues, OneBadValueReachesExactlyItsColumnOfTheRowsThatSeeIt) {
  for (const std::int64_t q_len : {1, 3, 50, 130}) {
    const Case c = causal(q_len, 130);
    for (const float bad : {kNan, kInf, -kInf}) {
      for (const std::int64_t j : {0, 1, 63, 64, 79, 128, 129}) {
        if (!taken()) continue;
        SCOPED_TRACE(::testing::Message() << c << " v[0, 1, " << j << ", 3] = " << bad);
        const Problem problem(c);
        problem.v.at(0, 1, j, 3) = bad;
        ASSERT_NO_FATAL_FAILURE(check(problem));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(SpecialValues, BadValuesPastBlocksAndSplits) {
  Case c = causal(20, 1100);
  c.window_left = 600;
  for (const float bad : {kNan, kInf}) {
    for (const std::int64_t j : {478, 479, 480, 490, 498, 499, 511, 512, 767, 768, 1023, 1024, 1085, 1099}) {
      if (!taken()) continue;
      SCOPED_TRACE(::testing::Message() << c << " v[0, 0, " << j << ", 11] = " << bad);
      const Problem problem(c);
      problem.v.at(0, 0, j, 11) = bad;
      ASSERT_NO_FATAL_FAILURE(check(problem));
      problem.v.at(0, 0, j, 11) = 0.5f;
      problem.k.at(0, 0, j, 0) = bad;
      ASSERT_NO_FATAL_FAILURE(check(problem));
      if (HasFailure()) return;
    }
  }
}

// The visible keys of a masked block are computed run by run. Values that are not finite are added
// separately, each with the probability of its own key: here 0 for all keys of the first run.
TEST_P(SpecialValues, AnInfiniteValueInAMasksSecondRunKeepsItsOwnProbability) {
  for (const std::int64_t q_len : {1, 3, 50}) {
    Case c = causal(q_len, 200);
    c.is_causal = false;
    c.mask = TermLayout::positions;
    const Problem problem(c);
    problem.mask.fill([](std::int64_t, std::int64_t, std::int64_t, std::int64_t j) {
      return j < 32 || (j >= 96 && j < 128) ? 1.0f : 0.0f;
    });
    problem.q.fill(1.0f);
    problem.k.fill(0.0f);
    for (std::int64_t h = 0; h < c.kv_heads; ++h)
      for (std::int64_t j = 0; j < 32; ++j)
        problem.k.at(0, h, j, 0) = -1000.0f;  // exp(-1000 / sqrt(20)) is 0
    for (const std::int64_t j : {96, 100, 127}) {
      for (const float bad : {kInf, -kInf, kNan}) {
        if (!taken()) continue;
        SCOPED_TRACE(::testing::Message() << c << " v[0, 1, " << j << ", 3] = " << bad);
        problem.v.at(0, 1, j, 3) = bad;
        ASSERT_NO_FATAL_FAILURE(check(problem));
        problem.v.at(0, 1, j, 3) = 0.5f;
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(SpecialValues, BadValuesOfFiniteKeysUnderMasksOfSeveralRuns) {
  for (const std::int64_t q_len : {1, 3, 50, 130}) {
    for (const std::int64_t mask_block : {3, 16, 40}) {
      Case c = causal(q_len, 600);
      c.mask = mask_block == 16 ? TermLayout::full : TermLayout::positions;
      c.mask_block = mask_block;
      for (const float bad : {kNan, kInf, -kInf}) {
        if (!taken()) continue;
        SCOPED_TRACE(::testing::Message() << c << " v = " << bad);
        const Problem problem(c);
        for (const std::int64_t j : {5, 70, 131, 255, 256, 300, 470, 540, 599})
          problem.v.at(0, j % 2, j, j % 12) = bad;
        ASSERT_NO_FATAL_FAILURE(check(problem));
        if (HasFailure()) return;
      }
    }
  }
}

TEST_P(SpecialValues, OneBadQueryReachesItsRowAlone) {
  for (const std::int64_t q_len : {1, 3, 50, 130}) {
    const Case c = causal(q_len, 130);
    for (const float bad : {kNan, kInf, -kInf}) {
      if (!taken()) continue;
      SCOPED_TRACE(::testing::Message() << c << " q = " << bad);
      const Problem problem(c);
      problem.q.at(0, 1, q_len / 2, 7) = bad;
      ASSERT_NO_FATAL_FAILURE(check(problem));
      if (HasFailure()) return;
    }
  }
}

TEST_P(SpecialValues, NanHiddenByMaskOrLengthReachesNobody) {
  Case c = causal(70, 200);
  c.window_left = 5;
  c.batch = 2;
  c.seqused = {150, 80};
  const Problem problem(c);
  // Rows see keys from used - 70 - 5 on: everything before is hidden from all. Keys past seqused are poisoned
  // already.
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t j = 0; j < c.seqused[static_cast<std::size_t>(b)] - 75; ++j) {
      problem.k.at(b, 0, j, 2) = kNan;
      problem.v.at(b, 1, j, 2) = kInf;
    }
  const Outcome got = problem.run(context_of(GetParam(), "openmp"));
  for (const float x : got.out) ASSERT_TRUE(std::isfinite(x));
  check(problem);
}

TEST_P(SpecialValues, ScoresOfMinusInfinityWeighNothing) {
  for (const std::int64_t q_len : {1, 3, 50}) {
    const Case c = causal(q_len, 600);
    const Problem problem(c);
    // q[0] = 1, k[0] = -inf on three keys of four, whole blocks included.
    for (std::int64_t h = 0; h < c.q_heads; ++h)
      for (std::int64_t i = 0; i < q_len; ++i) problem.q.at(0, h, i, 0) = 1.0f;
    for (std::int64_t h = 0; h < c.kv_heads; ++h)
      for (std::int64_t j = 0; j < c.kv_len; ++j)
        if (j % 4 != 3 || (j >= 256 && j < 512)) problem.k.at(0, h, j, 0) = -kInf;
    ASSERT_NO_FATAL_FAILURE(check(problem));
  }
}

TEST_P(SpecialValues, RowsWhoseEveryScoreIsMinusInfinityAreZero) {
  for (const std::int64_t q_len : {1, 3, 50}) {
    const Case c = causal(q_len, 300);
    const Problem problem(c);
    for (std::int64_t i = 0; i < q_len; ++i)
      problem.q.at(0, 2, i, 0) = 1.0f, problem.q.at(0, 3, i, 0) = -1.0f;
    for (std::int64_t j = 0; j < c.kv_len; ++j)
      problem.k.at(0, 1, j, 0) = -kInf;  // head 2: all -inf; head 3: all +inf
    const Outcome got = problem.run(context_of(GetParam(), "openmp"));
    const auto rows = static_cast<std::size_t>(q_len);
    for (std::size_t r = 2 * rows; r < 3 * rows; ++r) {
      EXPECT_EQ(got.lse[r], -kInf);
      EXPECT_TRUE(std::isnan(got.lse[r + rows]));
      for (std::size_t d = 0; d < 12; ++d) {
        EXPECT_EQ(got.out[r * 12 + d], 0.0f);
        EXPECT_TRUE(std::isnan(got.out[(r + rows) * 12 + d]));
      }
    }
    ASSERT_NO_FATAL_FAILURE(check(problem));
  }
}

// All weights are 0, and 0 times a value that is not finite is NaN.
TEST_P(SpecialValues, BadValuesUnderScoresOfMinusInfinityAlone) {
  for (const std::int64_t q_len : {1, 3, 50}) {
    Case c = causal(q_len, 600);
    c.bias = TermLayout::queries;
    const Problem problem(c);
    problem.bias.fill([](std::int64_t, std::int64_t h, std::int64_t i, std::int64_t) {
      return (h + i) % 2 == 0 ? -kInf : 0.5f;
    });
    problem.v.at(0, 0, 100, 3) = kNan;
    problem.v.at(0, 1, 540, 5) = kInf;
    ASSERT_NO_FATAL_FAILURE(check(problem));
  }
}

TEST_P(SpecialValues, LargeLogitsNeitherOverflowNorLoseTheirOrder) {
  for (const std::int64_t q_len : {1, 50}) {
    for (const float scale : {100.0f, -100.0f, 1e10f}) {
      Case c = causal(q_len, 300);
      c.scale = scale;
      SCOPED_TRACE(::testing::Message() << c);
      ASSERT_NO_FATAL_FAILURE(check(Problem(c)));
    }
  }
}

TEST_P(SpecialValues, OneKeyFarAboveTheOthersTakesAll) {
  const Case c = causal(1, 700);
  for (const std::int64_t winner : {0, 255, 256, 511, 512, 699}) {
    const Problem problem(c);
    problem.q.fill(1.0f);
    problem.k.fill(-50.0f);
    for (std::int64_t h = 0; h < c.kv_heads; ++h)
      for (std::int64_t d = 0; d < c.head_dim; ++d) problem.k.at(0, h, winner, d) = 50.0f;
    const Outcome got = problem.run(context_of(GetParam(), "openmp"));
    for (std::int64_t h = 0; h < c.q_heads; ++h)
      for (std::int64_t d = 0; d < c.v_head_dim; ++d)
        EXPECT_EQ(got.out[static_cast<std::size_t>(h * c.v_head_dim + d)], problem.v.at(0, h / 2, winner, d))
            << "winner " << winner;
  }
}

TEST_P(SpecialValues, SubnormalInputsAndOutputs) {
  for (const std::int64_t q_len : {1, 50}) {
    Case c = causal(q_len, 300);
    c.v_magnitude = 1e-41f;
    SCOPED_TRACE(::testing::Message() << c);
    ASSERT_NO_FATAL_FAILURE(check(Problem(c)));
    c.v_magnitude = 1.0f;
    c.q_magnitude = 1e-41f;
    ASSERT_NO_FATAL_FAILURE(check(Problem(c)));
    c.q_magnitude = 1.0f;
    c.k_magnitude = 1e-41f;
    ASSERT_NO_FATAL_FAILURE(check(Problem(c)));
    // Products of ordinary size. Keys are normal numbers where subnormals are flushed to 0.
    c.k_magnitude = own_arithmetic(GetParam()) ? 1e-32f : 1e-38f;
    c.q_magnitude = own_arithmetic(GetParam()) ? 1e32f : 1e38f;
    ASSERT_NO_FATAL_FAILURE(check(Problem(c)));
  }
}

TEST_P(SpecialValues, HugeValuesAverageToThemselves) {
  // 300 equal weights of 1e36: the unnormalised sum, 3e38, is still below FLT_MAX, and their average is exact
  // to rounding.
  const Case c = causal(5, 300);
  const Problem problem(c);
  problem.q.fill(0.0f);
  problem.v.fill(1e36f);
  const Outcome got = problem.run(context_of(GetParam(), "openmp"));
  for (const float x : got.out) EXPECT_NEAR(x, 1e36f, 1e31f);
}

INSTANTIATE_TEST_SUITE_P(Isa, SpecialValues, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
