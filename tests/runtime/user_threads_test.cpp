// SPDX-License-Identifier: Apache-2.0
// Calls from users' own OpenMP regions and TBB tasks, threads that end, unwinding stacks and forked
// processes.
#include <gtest/gtest.h>
#include <oneapi/tbb/parallel_for.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "runtime/key_parts.h"
#include "runtime/kv_append.h"
#include "tests/runtime/backward_case.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/scheduler/deny_syscalls.h"

namespace kumiko::test {
namespace {

Context two_domains(const std::string& executor) {
  ContextOptions options;
  options.executor = executor;
  options.topology = "numa:2 core:2 pu:1";
  return context_of(options);
}

Case some_case(std::uint64_t seed) {
  Case c;
  c.seed = seed;
  c.q_heads = 4;
  c.kv_heads = 2;
  c.q_len = static_cast<std::int64_t>(1 + seed % 3 * 20);
  c.kv_len = 600;
  c.is_causal = true;
  return c;
}

class UserThreads : public testing::TestWithParam<std::string> {
 protected:
  const Context context_ = two_domains(GetParam());
};

/// Runs its own problem and compares the bits with those of a single call.
class Caller {
 public:
  explicit Caller(const Context& context, std::uint64_t seed = 1)
      : context_(context), problem_(some_case(seed)), want_(problem_.run(context_of("", "serial"))) {}
  bool is_right() {
    problem_.poison_outputs();
    return attention_forward(context_, problem_.args()).ok() && same_bits(problem_.outcome(), want_);
  }

 private:
  Context context_;
  Problem problem_;
  Outcome want_;
};

std::vector<Caller> callers(const Context& context, int count) {
  std::vector<Caller> result;
  for (int i = 0; i < count; ++i) result.emplace_back(context, static_cast<std::uint64_t>(i));
  return result;
}

TEST_P(UserThreads, InsideAnOpenMpRegion) {
  std::vector<Caller> all = callers(context_, 4);
  std::atomic<int> wrong{0}, calls{0};
#pragma omp parallel num_threads(4)
  {
#pragma omp for schedule(static, 1)
    for (int i = 0; i < 4; ++i) {
      for (int repeat = 0; repeat < 10; ++repeat, ++calls)
        wrong += !all[static_cast<std::size_t>(i)].is_right();
    }
  }
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(calls.load(), 40);
}

TEST_P(UserThreads, InsideTbbTasks) {
  std::vector<Caller> all = callers(context_, 8);
  std::atomic<int> wrong{0}, calls{0};
  for (int repeat = 0; repeat < 10; ++repeat) {
    tbb::parallel_for(std::size_t{0}, all.size(), [&](std::size_t i) {
      wrong += !all[i].is_right();
      // A task that waits inside a task: its thread may start another caller's task meanwhile.
      tbb::parallel_for(0, 2, [&](int) { ++calls; });
    });
  }
  EXPECT_EQ(wrong.load(), 0);
  EXPECT_EQ(calls.load(), 160);
}

TEST_P(UserThreads, TheThreadThatMadeTheContextMayEnd) {
  Context context;
  std::thread([&] {
    context = two_domains(GetParam());
    EXPECT_TRUE(Caller(context).is_right());
  }).join();
  for (int i = 0; i < 3; ++i) std::thread([&] { EXPECT_TRUE(Caller(context).is_right()); }).join();
  std::thread([gone = std::move(context)]() mutable { gone = Context(); }).join();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(Caller(two_domains(GetParam())).is_right()) << "made anew";
}

TEST_P(UserThreads, AnExceptionMayUnwindPastCallsAndContexts) {
  struct CallsWhileUnwinding {
    Caller& caller;
    bool& was_right;
    ~CallsWhileUnwinding() { was_right = caller.is_right(); }
  };
  for (int i = 0; i < 3; ++i) {
    std::thread([&] {
      Caller caller(context_);
      bool was_right = false;
      try {
        const Context inner = two_domains(GetParam());
        const CallsWhileUnwinding late{caller, was_right};
        EXPECT_TRUE(Caller(inner).is_right());
        throw std::runtime_error("a user's own");
      } catch (const std::runtime_error&) {
      }
      EXPECT_TRUE(was_right);
      EXPECT_TRUE(caller.is_right());
    }).join();
  }
}

/// The process's other static objects, the library's among them, may be made after this one.
const Outcome kBeforeMain = Problem(some_case(4)).run(context_of("", "serial"));

TEST(BeforeMain, AStaticObjectMayCall) {
  EXPECT_TRUE(same_bits(kBeforeMain, Problem(some_case(4)).run(context_of("", "serial"))));
}

INSTANTIATE_TEST_SUITE_P(Executors, UserThreads, testing::Values("openmp", "tbb", "serial"), StringName());

class Forked : public UserThreads {};

TEST_P(Forked, AContextOfTheParentIsRefusedAndMayBeDestroyed) {
  std::optional<Context> context = context_;
  const Problem problem(some_case(1));
  ASSERT_TRUE(attention_forward(*context, problem.args()).ok());
  std::optional<Plan> prepared(std::in_place);
  ASSERT_TRUE(plan(*context, problem.args(), &*prepared).ok());
  const BackwardProblem gradients({.forward = some_case(1)}, *context);
  std::optional<BackwardPlan> planned_gradients(std::in_place);
  ASSERT_TRUE(plan_backward(*context, gradients.args(), &*planned_gradients).ok());
  gradients.poison_gradients();
  const std::string trace = std::string(testing::TempDir()) + "kumiko-forked-" + std::to_string(getpid());
  ContextOptions options;
  options.executor = "serial";
  options.trace = trace;
  std::optional<Context> traced(std::in_place);
  ASSERT_TRUE(Context::create(options, &*traced).ok());
  const auto child = in_child([&] {
    const auto is_refused = [](const Status& status) {
      return status.code() == Code::unsupported && status.message().find("fork") != std::string::npos;
    };
    problem.poison_outputs();
    if (!is_refused(prepared->run(problem.args()))) return 2;
    if (!is_refused(attention_forward(*context, problem.args()))) return 3;
    Plan none;
    if (!is_refused(plan(*context, problem.args(), &none)) || none) return 4;
    if (!is_refused(prepared->update({}))) return 8;
    SoftmaxPvArgs scores;
    scores.scores = problem.args().k, scores.v = problem.args().v, scores.out = problem.args().out;
    if (!is_refused(softmax_pv(*context, scores))) return 9;
    FusedGemmArgs products;
    products.q = problem.args().q, products.k = problem.args().k, products.v = problem.args().v;
    products.out = problem.args().out;
    if (!is_refused(fused_gemm(*context, products))) return 10;
    const AttentionState state{problem.args().v, problem.args().lse.data};
    if (!is_refused(merge_states(*context, {&state, 1}, problem.args().out))) return 11;
    if (!is_refused(kv_append(*context, KvAppendArgs{}))) return 12;
    const ConstTensor& q = problem.args().q;
    if (!is_refused(quantize_rows(*context, q, problem.args().out, problem.args().lse))) return 14;
    if (!is_refused(pack_key_pages(*context, q, problem.args().out))) return 15;
    if (!is_refused(unpack_key_pages(*context, q, problem.args().out))) return 16;
    float states = 0;
    if (!is_refused(attention_split_states(*context, problem.args(), {}, &states))) return 17;
    BackwardPlan no_gradients;
    if (!is_refused(attention_backward(*context, gradients.args()))) return 18;
    if (!is_refused(plan_backward(*context, gradients.args(), &no_gradients)) || no_gradients) return 19;
    if (!is_refused(planned_gradients->run(gradients.args()))) return 20;
    DomainMemory memory;
    if (!is_refused(context->allocate(0, 8, &memory))) return 6;
    if (!is_refused(traced->write_trace())) return 13;
    if (!problem.outputs_untouched()) return 5;
    if (context->describe().empty() || prepared->explain().empty()) return 7;
    if (!gradients.outputs_untouched()) return 21;
    prepared.reset();
    planned_gradients.reset();
    context.reset();
    traced.reset();
    return 0;
  });
  traced.reset();
  std::filesystem::remove(trace);
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.output, "");
  EXPECT_TRUE(prepared->run(problem.args()).ok()) << "the parent goes on";
}

TEST_P(Forked, AChildMakesContextsOfItsOwn) {
  const Context serial = context_of("", "serial");
  const Problem problem(some_case(2));
  const Outcome want = problem.run(serial);
  ASSERT_TRUE(attention_forward(context_, problem.args()).ok());
  for (const std::string executor : {"openmp", "tbb", "serial"}) {
    const auto child = in_child([&] {
      ContextOptions options;
      options.executor = executor;
      options.topology = "numa:2 core:2 pu:1";
      Context own;
      const Status status = Context::create(options, &own);
      // oneTBB is not available in the child of a process that has used it; the error must say so.
      if (executor == "tbb" && !status.ok())
        return status.code() == Code::unsupported && status.message().find("forked") != std::string::npos ? 0
                                                                                                          : 2;
      if (!status.ok()) return 3;
      for (int i = 0; i < 5; ++i) {
        problem.poison_outputs();
        if (!attention_forward(own, problem.args()).ok()) return 4;
        if (!same_bits(problem.outcome(), want)) return 5;
      }
      return 0;
    });
    EXPECT_EQ(child.status, 0) << executor << " in the child of a process that used " << GetParam();
    EXPECT_EQ(child.output, "");
  }
}

TEST(ForkedDefault, TheProcessWideContextIsMadeAnew) {
  const Problem problem(some_case(3));
  const Outcome want = problem.run(context_of("", "serial"));
  ASSERT_TRUE(attention_forward(problem.args()).ok());
  const auto child = in_child([&] {
    for (int i = 0; i < 3; ++i) {
      problem.poison_outputs();
      if (!attention_forward(problem.args()).ok()) return 2;
      if (!same_bits(problem.outcome(), want)) return 3;
    }
    return 0;
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.output, "");
}

// fork() waits for whoever makes it: a lock that another thread had would never be free in the child.
TEST(ForkedDefault, AChildNeedsNoThreadThatMakesTheContext) {
  const Problem problem(some_case(3));
  for (const int microseconds : {0, 300, 600, 1000, 2000, 4000, 8000}) {
    const auto child = in_child([&] {
      std::atomic<bool> begins{false};
      std::thread maker([&] {
        begins.store(true);
        (void)attention_forward(problem.args());
      });
      while (!begins.load()) std::this_thread::yield();
      std::this_thread::sleep_for(std::chrono::microseconds(microseconds));
      const auto grandchild = in_child([&] {
        alarm(60);
        return attention_forward(problem.args()).ok() ? 0 : 2;
      });
      maker.join();
      return grandchild.status == 0 ? 0 : 3;
    });
    EXPECT_EQ(child.status, 0) << microseconds << " microseconds after the call began";
    EXPECT_EQ(child.output, "");
  }
}

INSTANTIATE_TEST_SUITE_P(Executors, Forked, testing::Values("openmp", "tbb", "serial"), StringName());

}  // namespace
}  // namespace kumiko::test
