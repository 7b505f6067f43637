// SPDX-License-Identifier: Apache-2.0
// KUMIKO_PIPELINE: calls of attention take any, softmax_pv any but decode, and fused_gemm always uses its
// own.
#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <vector>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

/// A context that was made while KUMIKO_PIPELINE had this value.
Context context_under(const std::string& isa, const char* pipeline) {
  ContextOptions options;
  options.isa = isa;
  options.executor = "serial";
  Context context;
  setenv("KUMIKO_PIPELINE", pipeline, 1);
  const Status status = Context::create(options, &context);
  unsetenv("KUMIKO_PIPELINE");
  EXPECT_TRUE(status.ok()) << status.message();
  return context;
}

constexpr const char* kNames[] = {"automatic", "online", "decode", "two_pass", "interleaved", "three_pass"};

/// A case with q_len queries; decode is chosen for few.
Case of_rows(std::int64_t q_len) {
  Case c;
  c.batch = 2, c.q_heads = 4, c.kv_heads = 2, c.q_len = q_len, c.kv_len = 1100, c.head_dim = 12,
  c.v_head_dim = 9;
  c.is_causal = true;
  return c;
}

struct ForcedPipeline : ::testing::TestWithParam<std::string> {};

TEST_P(ForcedPipeline, FusedGemmGivesTheSameBitsUnderEach) {
  for (const std::int64_t q_len : {1, 3, 70}) {
    const Problem problem(of_rows(q_len));
    const AttentionArgs& a = problem.args();
    FusedGemmArgs args;
    args.q = a.q, args.k = a.k, args.v = a.v, args.out = a.out, args.is_causal = true, args.scale = 0.5f;
    problem.poison_outputs();
    ASSERT_TRUE(fused_gemm(context_of(GetParam(), "serial"), args).ok());
    const std::vector<float> want = problem.out.elements();
    for (const char* name : kNames) {
      problem.poison_outputs();
      const Status status = fused_gemm(context_under(GetParam(), name), args);
      ASSERT_TRUE(status.ok()) << status.message();
      EXPECT_TRUE(same_bits(problem.out.elements(), want)) << name << ", " << q_len << " queries";
    }
  }
}

TEST_P(ForcedPipeline, SoftmaxPvTakesAnyButDecode) {
  for (const std::int64_t q_len : {1, 3, 70}) {
    const Problem problem(of_rows(q_len));
    const AttentionArgs& a = problem.args();
    std::vector<float> scores(static_cast<std::size_t>(2 * 4 * q_len * 1100));
    for (std::size_t i = 0; i < scores.size(); ++i) scores[i] = static_cast<float>(i * 7919 % 1009) * 0.01f;
    SoftmaxPvArgs args;
    args.scores = ConstTensor::bhsd(scores.data(), 2, 4, q_len, 1100);
    args.v = a.v, args.out = a.out, args.lse = a.lse, args.is_causal = true;
    problem.poison_outputs();
    ASSERT_TRUE(softmax_pv(context_of(GetParam(), "serial"), args).ok());
    const Outcome want = problem.outcome();
    for (const std::string name : kNames) {
      SCOPED_TRACE(name + ", " + std::to_string(q_len) + " queries");
      const Context context = context_under(GetParam(), name.c_str());
      args.pipeline = Pipeline::automatic;
      problem.poison_outputs();
      const Status status = softmax_pv(context, args);
      if (name == "decode") {
        EXPECT_EQ(status.code(), Code::unsupported);
        for (const char* piece : {"KUMIKO_PIPELINE is \"decode\"", "expected", "softmax_pv"})
          EXPECT_NE(status.message().find(piece), std::string::npos) << status.message();
        EXPECT_TRUE(problem.outputs_untouched());
      } else {
        ASSERT_TRUE(status.ok()) << status.message();
        EXPECT_TRUE(same_bits(problem.outcome(), want));
      }
      // The call's choice takes precedence over the variable.
      args.pipeline = Pipeline::two_pass;
      problem.poison_outputs();
      ASSERT_TRUE(softmax_pv(context, args).ok());
      EXPECT_TRUE(same_bits(problem.outcome(), want));
    }
  }
}

// The bits do not tell the pipelines apart; the plan does.
TEST_P(ForcedPipeline, IsTheOnePlanned) {
  for (const std::string name : kNames) {
    const Context context = context_under(GetParam(), name.c_str());
    for (const Computation computation : {Computation::attention, Computation::softmax_pv}) {
      for (const std::int64_t q_len : {1, 70}) {
        const Problem problem(of_rows(q_len));
        kumiko::Problem lowered = lower(problem.args());
        lowered.computation = computation;
        Plan::Impl plan(impl_of(context), lowered);
        ASSERT_TRUE(prepare(plan).ok());
        const bool is_decode = computation == Computation::attention && q_len == 1;
        EXPECT_EQ(plan.tunings.many.pipeline->name, name != "automatic" ? name
                                                    : is_decode         ? "decode"
                                                                        : "online")
            << "computation " << static_cast<int>(computation) << ", " << q_len << " queries";
      }
    }
  }
}

// A task that takes several splits at a time keeps the sums of each split separate, and stores each if other
// tasks share its rows.
TEST_P(ForcedPipeline, ThreePassOverSeveralSplitsHasTheBitsOfOnline) {
  for (const std::int64_t kv_len : {2700, 40 * 512}) {
    ContextOptions options;
    options.isa = GetParam();
    options.num_threads = kv_len > 2700 ? 2 : 1;
    options.topology = flat_machine(2);
    const Context context = context_of(options);
    Case c = of_rows(20);
    c.batch = 1, c.q_heads = c.kv_heads = 1, c.kv_len = kv_len;
    c.window_left = kv_len - 1000;
    const Problem problem(c);
    Plan made;
    ASSERT_TRUE(plan(context, problem.args(Pipeline::three_pass), &made).ok());
    const Plan::Impl& impl = *impl_of(made);
    ASSERT_GT(impl.tunings.many.staged_splits, 1);
    const PlannedTask& task = impl.partition.tasks.front();
    ASSERT_GT(task.split_end - task.split_begin, 1);
    ASSERT_EQ(task.merge >= 0, options.num_threads > 1);
    EXPECT_TRUE(same_bits(problem.run(context, Pipeline::three_pass), problem.run(context, Pipeline::online)))
        << kv_len;
  }
}

INSTANTIATE_TEST_SUITE_P(Isa, ForcedPipeline, ::testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
