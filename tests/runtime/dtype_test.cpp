// bf16 and f16 tensors. Widening is exact and accumulation is f32, so a call on 16-bit inputs must give the
// bits of the f32 call on the same values, and a 16-bit output must be that result rounded once.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/runtime/shapes.h"
#include "tests/support/bits.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

struct Dtype : ::testing::TestWithParam<std::tuple<std::string, DataType>> {
  const std::string& isa() { return std::get<0>(GetParam()); }
  DataType type() { return std::get<1>(GetParam()); }
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
    const Outcome wide = problem.run(context);
    ASSERT_TRUE(meets_error_promise(wide.out, wide.lse, attention_fp64(problem.args()),
                                    attention_naive_f32(problem.args())));
    std::vector<float> want = wide.out;
    for (float& x : want) x = rounded(type(), x);

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
      ASSERT_TRUE(same_bits(out.elements(), want));
      ASSERT_TRUE(same_bits(problem.outcome().lse, wide.lse));
    }
  }
  void check_all(const std::vector<Case>& cases, std::size_t step) {
    for (std::size_t i = 0; i < cases.size(); i += kThinned ? 6 * step : step)
      ASSERT_NO_FATAL_FAILURE(check(cases[i]));
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
TEST_P(Dtype, RandomShapes) {
  const std::uint64_t seed = test_seed(20240608);
  SCOPED_TRACE(::testing::Message() << "KUMIKO_TEST_SEED=" << seed);
  check_all(random_cases(seed, 60), 1);
}

// Values that are not finite go another way through the kernels.
TEST_P(Dtype, NonFiniteValuesReachTheRowsThatSeeThem) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  Case c;
  c.q_len = 40, c.kv_len = 70, c.head_dim = 24, c.v_head_dim = 20, c.is_causal = true;
  const Problem problem(c);
  for (const GuardedTensor* t : {&problem.q, &problem.k, &problem.v}) t->round_to(type());
  problem.v.at(0, 0, 50, 3) = kInf;
  problem.v.at(0, 0, 60, 4) = std::numeric_limits<float>::quiet_NaN();
  problem.v.at(0, 0, 69, 5) = -kInf;
  NarrowTensor q(problem.q, type(), Flush::back), k(problem.k, type(), Flush::back),
      v(problem.v, type(), Flush::back);
  q.copy(problem.q), k.copy(problem.k), v.copy(problem.v);
  const Context context = context_of(isa(), "serial");
  const Outcome wide = problem.run(context);
  for (const Pipeline pipeline : kPipelines) {
    AttentionArgs args = problem.args(pipeline);
    args.q = q.input(), args.k = k.input(), args.v = v.input();
    problem.poison_outputs();
    ASSERT_TRUE(attention_forward(context, args).ok());
    const std::vector<float> out = problem.outcome().out;
    for (std::size_t i = 0; i < out.size(); ++i) {
      const bool infinite = std::isnan(out[i]) || std::isinf(out[i]);
      const std::size_t row = i / 20, column = i % 20;
      const bool reached =
          (column == 3 && row >= 20) || (column == 4 && row >= 30) || (column == 5 && row == 39);
      ASSERT_EQ(infinite, reached) << "row " << row << " column " << column;
      if (!infinite) {
        ASSERT_EQ(out[i], wide.out[i]);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, Dtype,
                         ::testing::Combine(::testing::ValuesIn(host_isas()),
                                            ::testing::Values(DataType::bf16, DataType::f16)),
                         [](const auto& param_info) {
                           return std::get<0>(param_info.param) +
                                  (std::get<1>(param_info.param) == DataType::bf16 ? "_bf16" : "_f16");
                         });

}  // namespace
}  // namespace kumiko::test
