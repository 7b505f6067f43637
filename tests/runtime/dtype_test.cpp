// SPDX-License-Identifier: Apache-2.0
// bf16 and f16 tensors. Widening is exact and accumulation is f32, so a call on 16-bit inputs must give the
// bits of the f32 call on the same values, and a 16-bit output must be that result rounded once. Where the
// ISA multiplies bf16 pairs, probabilities are rounded to bf16 too: there the result must meet the error
// promise and have the same bits in every pipeline.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/shapes.h"
#include "tests/support/bits.h"
#include "tests/support/bochs.h"
#include "tests/support/numbers.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Dtype : ::testing::TestWithParam<std::tuple<std::string, DataType>> {
  const std::string& isa() { return std::get<0>(GetParam()); }
  DataType type() { return std::get<1>(GetParam()); }
  bool multiplies_pairs() { return isa() == "avx512_bf16" && type() == DataType::bf16; }
  Random random{test_seed(81)};

  Flush flush() { return random.one_in(2) ? Flush::front : Flush::back; }

  void check(const Case& c) {
    SCOPED_TRACE(::testing::Message() << isa() << ": " << c);
    const Problem problem(c);
    for (const GuardedTensor* t : {&problem.q, &problem.k, &problem.v}) t->round_to(type());
    NarrowTensor q(problem.q, type(), flush()), k(problem.k, type(), flush()), v(problem.v, type(), flush()),
        out(problem.out, type(), flush());
    q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);

    const Context context = context_of(isa(), "openmp");
    ASSERT_TRUE(context);
    Outcome wide = problem.run(context);
    const auto fp64 = attention_fp64(problem.args());
    ASSERT_TRUE(meets_error_promise(wide.out, wide.lse, fp64, attention_naive_f32(problem.args())));
    if (multiplies_pairs()) {
      AttentionArgs args = problem.args();
      args.q = q.input(), args.k = k.input(), args.v = v.input();
      problem.poison_outputs();
      ASSERT_TRUE(attention_forward(context, args).ok());
      wide = problem.outcome();
      ASSERT_TRUE(meets_error_promise(wide.out, wide.lse, fp64,
                                      attention_naive_f32(problem.args(), DataType::bf16), nullptr,
                                      DataType::bf16));
    }

    for (const Pipeline pipeline : kPipelines) {
      SCOPED_TRACE(::testing::Message() << "pipeline " << static_cast<int>(pipeline));
      AttentionArgs args = problem.args(pipeline);
      args.q = q.input(), args.k = k.input(), args.v = v.input();
      problem.poison_outputs();
      Status status = attention_forward(context, args);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(problem.borders_intact());
      ASSERT_TRUE(same_bits(problem.outcome(), wide));

      args.out = out.output();
      problem.poison_outputs(), out.poison_all();
      status = attention_forward(context, args);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(out.gaps_untouched());
      ASSERT_TRUE(problem.out.all_untouched());
      ASSERT_TRUE(are_rounded_once(out.elements(), wide.out, type()));
      ASSERT_TRUE(same_bits(problem.outcome().lse, wide.lse));
    }
  }
  void check_all(const std::vector<Case>& cases, std::size_t step, std::int64_t most_work = 5'000'000) {
    for (const Case& c : thin(cases, step * thinned<std::size_t>(1, 6, 11), most_work))
      ASSERT_NO_FATAL_FAILURE(check(c));
  }
};

TEST_P(Dtype, HeadGroups) {
  check_all(head_groups(), 1);
}
TEST_P(Dtype, Layouts) {
  check_all(layouts(), 3);
}
TEST_P(Dtype, HeadDims) {
  check_all(head_dim_pairs(), 7);
}
TEST_P(Dtype, LongSequences) {
  check_all(long_sequences(), 1);
}
TEST_P(Dtype, ScoreTerms) {
  check_all(score_terms(), 5);
}
TEST_P(Dtype, EachCombinationOfTerms) {
  for (const Case& c : combinations_of_terms()) ASSERT_NO_FATAL_FAILURE(check(c));
}
// A mask does not change scores; the other terms do, and where bf16 pairs are multiplied their exponentials
// are computed by other code.
TEST_P(Dtype, AMaskAlone) {
  std::vector<Case> cases = score_terms();
  std::erase_if(cases, [](const Case& c) {
    return c.mask == TermLayout::none || c.bias != TermLayout::none || c.alibi != 0 || c.softcap != 0.0f;
  });
  ASSERT_EQ(cases.size(), std::size(kTermLayouts));
  check_all(cases, 1);
}
TEST_P(Dtype, RandomShapes) {
  const std::uint64_t seed = test_seed(20240608);
  SCOPED_TRACE(::testing::Message() << "KUMIKO_TEST_SEED=" << seed);
  check_all(random_cases(seed, 60), 1, 2'000'000);
}

// Where bf16 pairs are multiplied, the sign of the scale is applied to the query and its magnitude to the
// scores.
TEST_P(Dtype, NegativeScales) {
  for (const std::int64_t q_len : {1, 40}) {
    for (const int alibi : {0, 1}) {
      Case c;
      c.q_heads = 4, c.kv_heads = 2, c.q_len = q_len, c.kv_len = thinned(300, 300, 130), c.head_dim = 24,
      c.v_head_dim = 20;
      c.is_causal = true, c.scale = -0.4f, c.alibi = alibi;
      ASSERT_NO_FATAL_FAILURE(check(c));
    }
  }
}

// The kernels handle values that are not finite by other code.
TEST_P(Dtype, NonFiniteValuesReachTheRowsThatSeeThem) {
  Case c;
  c.q_len = 40, c.kv_len = 70, c.head_dim = 24, c.v_head_dim = 20, c.is_causal = true;
  const Problem problem(c);
  for (const GuardedTensor* t : {&problem.q, &problem.k, &problem.v}) t->round_to(type());
  problem.v.at(0, 0, 50, 3) = kInf;
  problem.v.at(0, 0, 60, 12) = std::numeric_limits<float>::quiet_NaN();
  problem.v.at(0, 0, 69, 19) = -kInf;
  NarrowTensor q(problem.q, type(), Flush::back), k(problem.k, type(), Flush::back),
      v(problem.v, type(), Flush::back);
  q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
  const Context context = context_of(isa(), "serial");
  Outcome wide = problem.run(context);
  for (const Pipeline pipeline : kPipelines) {
    AttentionArgs args = problem.args(pipeline);
    args.q = q.input(), args.k = k.input(), args.v = v.input();
    problem.poison_outputs();
    ASSERT_TRUE(attention_forward(context, args).ok());
    const std::vector<float> out = problem.outcome().out;
    if (multiplies_pairs() && pipeline == kPipelines[0]) {
      for (std::size_t i = 0; i < out.size(); ++i) {
        if (!std::isfinite(out[i])) continue;
        ASSERT_NEAR(out[i], wide.out[i], 0.02) << i;  // weights rounded to 2^-9, values of size 1
      }
      wide.out = out;
    }
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool infinite = std::isnan(out[i]) || std::isinf(out[i]);
      const std::size_t row = i / 20, column = i % 20;
      const bool reached =
          (column == 3 && row >= 20) || (column == 12 && row >= 30) || (column == 19 && row == 39);
      ASSERT_EQ(infinite, reached) << "row " << row << " column " << column;
      if (!infinite) {
        ASSERT_EQ(out[i], wide.out[i]);
      }
    }
  }
}

// Half of the negative f16 nearest to 0 is a number in f32, and in f16 a tie between that and -0, the even
// one.
TEST_P(Dtype, NegativeNumbersTooSmallForF16AreMinusZero) {
  if (type() != DataType::f16) return;
  for (const std::int64_t q_len : {1, 40}) {
    Case c;
    c.q_len = q_len, c.kv_len = 2, c.head_dim = 24, c.v_head_dim = 20;
    const Problem problem(c);
    problem.q.fill(0.0f);  // equal weights
    for (std::int64_t d = 0; d < c.v_head_dim; ++d)
      problem.v.at(0, 0, 0, d) = -0x1p-24f, problem.v.at(0, 0, 1, d) = 0.0f;
    const NarrowTensor q(problem.q, type(), Flush::back), k(problem.k, type(), Flush::back),
        v(problem.v, type(), Flush::back), out(problem.out, type(), Flush::back);
    q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
    for (const Pipeline pipeline : kPipelines) {
      AttentionArgs args = problem.args(pipeline);
      args.q = q.input(), args.k = k.input(), args.v = v.input();
      problem.poison_outputs();
      ASSERT_TRUE(attention_forward(context_of(isa(), "serial"), args).ok());
      for (const float x : problem.out.elements()) ASSERT_EQ(x, -0x1p-25f);
      if (on_bochs()) continue;  // rounds ties of f16 away from 0
      args.out = out.output();
      ASSERT_TRUE(attention_forward(context_of(isa(), "serial"), args).ok());
      for (const float x : out.elements()) ASSERT_TRUE(x == 0.0f && std::signbit(x)) << x;
    }
  }
}

// Rows [first, last) of a causal self-attention, computed over the keys that exist by then, are the rows of
// one prefill; pairs of keys and of dims must be the same ones wherever a window or a chunk begins.
TEST_P(Dtype, AnyChunksEqualOnePrefill) {
  for (int repeat = 0; repeat < 6; repeat += thinned(1, 2, 2)) {  // 0, 2 and 4 differ
    Case c;
    c.q_len = c.kv_len = thinned<std::int64_t>(700, 530, 290);
    c.q_heads = 4, c.kv_heads = 2, c.head_dim = 23, c.v_head_dim = 37, c.is_causal = true;
    c.seed = 900 + static_cast<std::uint64_t>(repeat);
    if (repeat >= 2) c.window_left = random.between(0, repeat >= 4 ? 100 : 600);
    if (repeat >= 4) c.window_sink_tokens = random.pick({1, 3, 33, 301});
    const Problem problem(c);
    NarrowTensor q(problem.q, type(), flush()), k(problem.k, type(), flush()), v(problem.v, type(), flush());
    q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
    const Context context = context_of(isa(), "openmp");
    AttentionArgs args = problem.args();
    args.q = q.input(), args.k = k.input(), args.v = v.input();
    problem.poison_outputs();
    ASSERT_TRUE(attention_forward(context, args).ok());
    const Outcome whole = problem.outcome();
    for (std::int64_t first = 0; first < c.q_len;) {
      const std::int64_t last =
          std::min(c.q_len, first + (random.one_in(2) ? random.between(1, 8) : random.between(9, 300)));
      const Pipeline pipeline = random.pick({Pipeline::automatic, Pipeline::online, Pipeline::decode});
      SCOPED_TRACE(::testing::Message() << isa() << " " << c << " rows " << first << ".." << last
                                        << " pipeline " << static_cast<int>(pipeline));
      AttentionArgs part = args;
      part.pipeline = pipeline;
      part.q.data = static_cast<const std::uint16_t*>(args.q.data) + first * args.q.stride[2];
      part.q.shape[2] = last - first;
      part.k.shape[2] = part.v.shape[2] = last;
      ASSERT_TRUE(gives_rows(context, part, whole, first, last));
      first = last;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Dtype,
                         ::testing::Combine(::testing::ValuesIn(swept_isas()),
                                            ::testing::Values(DataType::bf16, DataType::f16)),
                         [](const auto& param_info) {
                           // The ISA last: avx512_bf16 is one.
                           return (std::get<1>(param_info.param) == DataType::bf16 ? "bf16_" : "f16_") +
                                  std::get<0>(param_info.param);
                         });

}  // namespace
}  // namespace kumiko::test
