// SPDX-License-Identifier: Apache-2.0
// The sweep: every case on every ISA of this machine, every executor and pipeline, against fp64.
#include <gtest/gtest.h>

#include <cstdio>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/shapes.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Sweep : ::testing::TestWithParam<std::string> {
  WorstError worst;
  Case worst_case;

  // One run is compared with fp64; the others must have its bits. Large cases take each pipeline once instead
  // of on every executor.
  void check(Case c) {
    SCOPED_TRACE(::testing::Message() << GetParam() << ": " << c);
    c.row_max = GuardedLse::Layout::padded;
    const Problem problem(c);
    const auto fp64 = attention_fp64(problem.args());
    const auto naive = attention_naive_f32(problem.args());
    Outcome first;
    for (std::size_t e = 0; e < kAllExecutors.size(); ++e) {
      const Context context = context_of(GetParam(), kAllExecutors[e]);
      ASSERT_TRUE(context);
      for (std::size_t p = 0; p < std::size(kPipelines); ++p) {
        if (e != p % kAllExecutors.size() && c.work() > 400'000) continue;
        SCOPED_TRACE(::testing::Message() << kAllExecutors[e] << " pipeline " << p);
        const Outcome got = problem.run(context, kPipelines[p]);
        if (e == 0 && p == 0) {
          first = got;
          WorstError here;
          ASSERT_TRUE(meets_error_promise(got.out, got.lse, fp64, naive, &here));
          ASSERT_TRUE(row_max_is_right(got.row_max, fp64, naive));
          if (here.ratio > worst.ratio) worst_case = c;
          worst.merge(here);
        } else {
          ASSERT_TRUE(same_bits(got, first));
        }
        if (HasFailure()) return;
      }
    }
  }

  void check_all(const std::vector<Case>& cases) {
    // The steps are coprime to the lengths of the lists that shapes.cpp combines, so that every entry still
    // occurs.
    check_each(thin(cases, thinned<std::size_t>(1, 7, 29), 5'000'000));
  }
  void check_each(const std::vector<Case>& cases) {
    for (const Case& c : cases) {
      check(c);
      if (HasFailure()) return;
    }
    std::printf(
        "worst error: out %.1f roundoffs (naive %.1f), lse %.1f (naive %.1f); worst ratio to naive %.2f at "
        "%s\n",
        worst.out, worst.naive_out, worst.lse, worst.naive_lse, worst.ratio,
        ::testing::PrintToString(worst_case).c_str());
  }
};

TEST_P(Sweep, LengthPairs) {
  check_all(length_pairs());
}
TEST_P(Sweep, HeadDimPairs) {
  check_all(head_dim_pairs());
}
TEST_P(Sweep, HeadGroups) {
  check_all(head_groups());
}
TEST_P(Sweep, Layouts) {
  check_all(layouts());
}
TEST_P(Sweep, LongSequences) {
  check_all(long_sequences());
}
TEST_P(Sweep, ExtremeMasks) {
  check_all(extreme_masks());
}

TEST_P(Sweep, ScoreTerms) {
  check_all(score_terms());
  if (kThinned && !HasFailure()) check_each(combinations_of_terms());
}

TEST_P(Sweep, RandomShapes) {
  const std::uint64_t seed = test_seed(20240607);
  SCOPED_TRACE(::testing::Message() << "KUMIKO_TEST_SEED=" << seed);
  check_all(random_cases(seed, 300));
}

INSTANTIATE_TEST_SUITE_P(Isa, Sweep, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
