// SPDX-License-Identifier: Apache-2.0
// Plans of attention_backward: the bits of the one call, on other pointers too; a run allocates nothing.
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "tests/runtime/backward_case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/alloc_counter.h"
#include "tests/support/bits.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

/// Heads alone and together on any number of threads up to 4, several blocks, everything that has a gradient.
std::vector<BackwardCase> cases() {
  std::vector<BackwardCase> list(4);
  Case& alone = list[0].forward;
  alone.batch = 3, alone.q_heads = 6, alone.kv_heads = 3, alone.q_len = 60, alone.kv_len = 70;
  alone.sinks = true, alone.bias = TermLayout::heads, alone.alibi = 2, alone.seqused = {70, 0, 9};
  list[0].dlse = GuardedLse::Layout::padded;
  Case& together = list[1].forward;
  together.q_heads = 2, together.q_len = 1200, together.kv_len = 700, together.is_causal = true;
  Case& both = list[2].forward;
  both.batch = 1, both.q_heads = both.kv_heads = 9, both.q_len = 600, both.kv_len = 40;
  both.alibi = 1;
  list[3].forward.q_len = 0;
  for (BackwardCase& c : list) c.forward.head_dim = 5, c.forward.v_head_dim = 3;
  return list;
}

/// A case with memory for the gradients of its terms.
struct Planned {
  BackwardProblem problem;
  std::vector<float> dbias, dslopes;
  BackwardArgs args;

  Planned(const BackwardCase& c, const Context& context) : problem(c, context), args(problem.args()) {
    const Case& f = c.forward;
    if (f.bias != TermLayout::none) {
      dbias.resize(static_cast<std::size_t>(f.q_heads * f.q_len * f.kv_len));
      args.dbias = {dbias.data(),
                    {f.batch, f.q_heads, f.q_len, f.kv_len},
                    {0, f.q_len * f.kv_len, f.kv_len, 1},
                    DataType::f32};
    }
    if (f.alibi != 0) {
      dslopes.resize(static_cast<std::size_t>(f.q_heads * (f.alibi == 2 ? f.batch : 1)));
      args.dalibi_slopes = dslopes.data();
    }
  }
  void poison_all() {
    problem.poison_gradients();
    for (auto* of : {&dbias, &dslopes}) of->assign(of->size(), poison());
    std::fill_n(args.dsinks, args.dsinks ? args.forward.q.shape[1] : 0, poison());
  }
  std::vector<float> all() const {
    std::vector<float> of = problem.dq.elements();
    for (const auto& more : {problem.dk.elements(), problem.dv.elements(), dbias, dslopes})
      of.insert(of.end(), more.begin(), more.end());
    if (args.dsinks) of.insert(of.end(), args.dsinks, args.dsinks + args.forward.q.shape[1]);
    return of;
  }
};

struct BackwardPlans : ::testing::TestWithParam<std::string> {
  static Context make(int threads) {
    ContextOptions options;
    options.executor = GetParam();
    options.num_threads = threads;
    options.topology = flat_machine(threads);
    return context_of(options);
  }
};

TEST_P(BackwardPlans, HaveTheBitsOfTheCallAndAllocateNothing) {
  for (const int threads : {1, 2, 4}) {
    const Context context = make(threads);
    for (const BackwardCase& c : cases()) {
      SCOPED_TRACE(::testing::Message() << threads << " threads: " << c);
      Planned one(c, context);
      BackwardArgs planned = one.args;
      planned.forward.q.data = planned.forward.k.data = planned.dout.data = nullptr;
      planned.dq.data = planned.dbias.data = nullptr, planned.forward.lse.data = nullptr;
      BackwardPlan plan;
      Status status = plan_backward(context, planned, &plan);
      ASSERT_TRUE(status.ok()) << status.message();
      ASSERT_TRUE(attention_backward(context, one.args).ok());
      const std::vector<float> want = one.all();
      BackwardCase other_case = c;
      ++other_case.forward.seed;
      Planned other(other_case, context);
      for (Planned* of : {&other, &one}) {
        of->poison_all();
        status = plan.run(of->args);
        ASSERT_TRUE(status.ok()) << status.message();
      }
      EXPECT_TRUE(same_bits(one.all(), want));
      const std::vector<float> got = other.all();
      ASSERT_TRUE(attention_backward(context, other.args).ok());
      EXPECT_TRUE(same_bits(got, other.all()));
      bool ok = true;
      std::int64_t calls = 0;
      {
        const AllocationCount count;
        for (int repeat = 0; repeat < 5; ++repeat) ok = plan.run(one.args).ok() && ok;
        calls = count.calls();
      }
      EXPECT_TRUE(ok);
      EXPECT_EQ(calls, 0);
      EXPECT_TRUE(same_bits(one.all(), want));
    }
  }
}

TEST_P(BackwardPlans, RunInSeveralThreadsAtOnce) {
  const Context context = make(2);
  const BackwardCase c = cases()[1];
  BackwardPlan plan;
  {
    const Planned one(c, context);
    ASSERT_TRUE(plan_backward(context, one.args, &plan).ok());
  }
  std::atomic<int> failed{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] {
      BackwardCase own = c;
      own.forward.seed += static_cast<std::uint64_t>(t);
      Planned one(own, context);
      failed += !attention_backward(context, one.args).ok();
      const std::vector<float> want = one.all();
      for (int repeat = 0; repeat < 3; ++repeat) {
        one.poison_all();
        failed += !plan.run(one.args).ok() || !same_bits(one.all(), want);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
}

INSTANTIATE_TEST_SUITE_P(Executor, BackwardPlans, ::testing::ValuesIn(kAllExecutors), StringName());

struct BackwardPlanErrors : ::testing::Test {
  Context context = own_context("serial", 1);
  Planned planned{cases()[0], context};
  BackwardPlan plan;
  BackwardArgs args = planned.args;
  void SetUp() override { ASSERT_TRUE(plan_backward(context, args, &plan).ok()); }

  void expect(const std::string& message) {
    planned.poison_all();
    const Status status = plan.run(args);
    EXPECT_EQ(status.code(), Code::invalid_argument);
    EXPECT_NE(status.message().find(message), std::string::npos) << status.message();
    EXPECT_TRUE(planned.problem.outputs_untouched());
    args = planned.args;
  }
};

TEST_F(BackwardPlanErrors, NameWhatIsNotAsPlanned) {
  args.forward.softcap = 2.0f;
  expect("softcap");
  args.forward.q.shape[2] = 59;
  expect("q.shape[2]");
  args.dout.stride[1] += 1;
  expect("dout.stride[1]");
  args.dq.dtype = DataType::bf16;
  expect("dq.dtype");
  args.dk.stride[0] += 1;
  expect("dk.stride[0]");
  args.dv.shape[1] = 2;
  expect("dv.shape[1]");
  args.dbias = {};
  expect("dbias.shape[0]");
  args.dsinks = nullptr;
  expect("dsinks is null; expected given, as planned");
  args.dalibi_slopes = nullptr;
  expect("dalibi_slopes is null; expected given, as planned");
  args.forward.lse.data = nullptr;
  expect("forward.lse.data is null");
  args.dlse.stride = {-1, 1, 1};
  expect("dlse.stride[0]");
  args.dv.data = args.dk.data;
  expect("memory apart from dk");
  const std::vector<std::int32_t> lengths{70, 0, 10};
  args.forward.seqused_k = lengths.data();
  expect("seqused_k[2]");
  std::vector<float> maxima(3 * 6 * 60);
  args.forward.row_max.data = maxima.data();
  const Status status = plan.run(args);
  EXPECT_EQ(status.code(), Code::unsupported) << status.message();
}

// LSEs, their gradients and delta may lie elsewhere in each run, with other strides.
TEST_F(BackwardPlanErrors, AreNoneWhereLsesHaveOtherStrides) {
  ASSERT_TRUE(plan.run(args).ok());
  const std::vector<float> want = planned.all(), lses = planned.problem.forward.lse.elements(),
                           gradients = planned.problem.dlse.elements();
  const std::array<std::int64_t, 3> strides = {2, 3 * 2 * 60, 3 * 2};  // [heads, queries, batch], two apart
  std::vector<float> lse(6 * 60 * 3 * 2, kNan), dlse = lse;
  for (std::size_t n = 0; n < lses.size(); ++n) {
    const std::size_t b = n / 360, h = n / 60 % 6, i = n % 60, at = b * 2 + h * 360 + i * 6;
    lse[at] = lses[n], dlse[at] = gradients[n];
  }
  args.forward.lse = {lse.data(), strides}, args.dlse = {dlse.data(), strides};
  planned.poison_all();
  const Status status = plan.run(args);
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(same_bits(planned.all(), want));
}

TEST_F(BackwardPlanErrors, LeaveThePlanAsItWas) {
  args.dq.shape[3] = 6;
  EXPECT_EQ(plan_backward(context, args, &plan).code(), Code::invalid_argument);
  EXPECT_TRUE(plan.run(planned.args).ok());
  EXPECT_EQ(plan_backward(context, planned.args, nullptr).message(),
            "plan is null; expected a BackwardPlan to fill");
  EXPECT_EQ(BackwardPlan().run(planned.args).message(),
            "plan is empty; expected one made by plan_backward()");
  EXPECT_EQ(BackwardPlan().explain(), "no plan\n");
  EXPECT_EQ(BackwardPlan().workspace_bytes(), 0);
}

TEST_F(BackwardPlanErrors, ExplainSaysWhatIsComputedHow) {
  const std::string text = plan.explain();
  EXPECT_NE(text.find("problem: batch 3, query heads 6, KV heads 3, q_len 60, kv_len 70, head_dim 5, "
                      "v_head_dim 3, sinks\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find(", elements f32, products of f32, blocks of 576, pieces of 192\n"), std::string::npos)
      << text;
  EXPECT_NE(text.find("heads: 9, 9 each by one thread alone, 0 by all threads in 0 groups\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("dbias and dalibi_slopes: 18 tasks at most"), std::string::npos) << text;
  EXPECT_NE(text.find("workspace: " + std::to_string(plan.workspace_bytes()) + " bytes ("), std::string::npos)
      << text;
  // A head too large for one thread.
  BackwardCase c;
  c.forward.q_len = c.forward.kv_len = 40'000, c.forward.head_dim = c.forward.v_head_dim = 64;
  BackwardArgs large;
  const auto of = [&](auto* view) {
    view->shape = {1, 1, 40'000, 64}, view->stride = {2'560'000, 2'560'000, 64, 1};
  };
  of(&large.forward.q), of(&large.forward.k), of(&large.forward.v), of(&large.forward.out), of(&large.dout);
  of(&large.dq), of(&large.dk), of(&large.dv);
  ASSERT_TRUE(plan_backward(context, large, &plan).ok());
  EXPECT_NE(plan.explain().find("heads: 1, 0 each by one thread alone, 1 by all threads in 1 groups\n"),
            std::string::npos)
      << plan.explain();
  EXPECT_GT(plan.workspace_bytes(), 3 * 40'000 * 64 * 4);
  EXPECT_LT(plan.workspace_bytes(), 4 * 40'000 * 64 * 4);  // and not 40'000 * 40'000 of anything
}

}  // namespace
}  // namespace kumiko::test
