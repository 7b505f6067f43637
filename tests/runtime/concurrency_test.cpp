// SPDX-License-Identifier: Apache-2.0
// Many caller threads on one Context and on one Plan. Run under ThreadSanitizer too.
#include <gtest/gtest.h>

#include <atomic>
#include <latch>
#include <memory>
#include <thread>

#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr int kCallers = 32;
const int kRepeats = kThinned ? 8 : 25;

// A mix as on a server: long prefill, decode, short batches.
Case case_of(int i) {
  Case c;
  c.seed = 9000 + static_cast<std::uint64_t>(i);
  c.q_heads = 4;
  c.kv_heads = 2;
  c.head_dim = 16;
  c.v_head_dim = 20;
  c.is_causal = i % 2 == 0;
  switch (i % 6) {
    case 0:
      c.q_len = 1, c.kv_len = 1200;
      break;
    case 1:
      c.q_len = 60, c.kv_len = 60;
      break;
    case 2:
      c.q_len = 100, c.kv_len = 300;
      break;
    case 3:
      c.batch = 3, c.q_len = 7, c.kv_len = 90, c.seqused = {90, 0, 31};
      break;
    case 4:
      c.q_len = 4, c.kv_len = 700;
      break;
    default:
      c.q_len = 1, c.kv_len = 1;
      break;
  }
  return c;
}

// Runs body(caller) on `callers` threads that start together.
template <class Body>
void together(int callers, Body body) {
  std::latch start(callers);
  std::vector<std::thread> threads;
  for (int t = 0; t < callers; ++t)
    threads.emplace_back([&, t] {
      start.arrive_and_wait();
      body(t);
    });
  for (std::thread& thread : threads) thread.join();
}

struct Concurrency : ::testing::TestWithParam<std::string> {
  // If the host has fewer than `threads` cores, a machine with that many is assumed, so that helpers and
  // callers do overlap.
  Context make(int threads) { return own_context(GetParam(), threads); }
};

TEST_P(Concurrency, ThirtyTwoCallersGetTheBitsOfACallerAlone) {
  for (const int threads : {1, 4}) {
    const Context context = make(threads);
    ASSERT_TRUE(context);
    std::vector<std::unique_ptr<Problem>> problems;
    std::vector<Outcome> want;
    for (int i = 0; i < kCallers; ++i) {
      problems.push_back(std::make_unique<Problem>(case_of(i)));
      want.push_back(problems.back()->run(context));
    }
    std::atomic<int> wrong{0}, failed{0};
    together(kCallers, [&](int t) {
      const Problem& problem = *problems[static_cast<std::size_t>(t)];
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        problem.poison_outputs();
        if (!attention_forward(context, problem.args()).ok()) ++failed;
        if (!same_bits(problem.outcome(), want[static_cast<std::size_t>(t)])) ++wrong;
      }
    });
    EXPECT_EQ(failed, 0) << "threads " << threads;
    EXPECT_EQ(wrong, 0) << "threads " << threads;
    for (const auto& problem : problems) EXPECT_TRUE(problem->borders_intact());
  }
}

TEST_P(Concurrency, OnePlanRunByManyThreadsOnTheirOwnPointers) {
  const Context context = make(3);
  ASSERT_TRUE(context);
  for (const int which : {0, 2, 3}) {
    std::vector<std::unique_ptr<Problem>> problems;
    std::vector<Outcome> want;
    for (int t = 0; t < 12; ++t) {
      Case c = case_of(which);
      c.seed += 100 * static_cast<std::uint64_t>(t);  // same shape, other values
      problems.push_back(std::make_unique<Problem>(c));
      want.push_back(problems.back()->run(context));
    }
    Plan shared;
    const Status status = plan(context, problems[0]->args(), &shared);
    ASSERT_TRUE(status.ok()) << status.message();
    std::atomic<int> wrong{0}, failed{0};
    together(12, [&](int t) {
      const Problem& problem = *problems[static_cast<std::size_t>(t)];
      const Plan copy = shared;
      for (int repeat = 0; repeat < kRepeats; ++repeat) {
        problem.poison_outputs();
        if (!(repeat % 2 ? copy : shared).run(problem.args()).ok()) ++failed;
        if (!same_bits(problem.outcome(), want[static_cast<std::size_t>(t)])) ++wrong;
      }
    });
    EXPECT_EQ(failed, 0) << case_of(which);
    EXPECT_EQ(wrong, 0) << case_of(which);
  }
}

TEST_P(Concurrency, ContextsComeAndGoWhileOthersRun) {
  const Problem expected(case_of(2));
  const Outcome want = expected.run(make(2));
  std::atomic<int> wrong{0};
  together(6, [&](int) {
    for (int repeat = 0; repeat < 5; ++repeat) {
      ContextOptions options;
      options.executor = GetParam();
      options.topology = flat_machine(2);
      Context context;
      const Problem problem(case_of(2));
      problem.poison_outputs();
      if (!Context::create(options, &context).ok() || !attention_forward(context, problem.args()).ok() ||
          !same_bits(problem.outcome(), want))
        ++wrong;
    }
  });
  EXPECT_EQ(wrong, 0);
}

TEST_P(Concurrency, APlanOutlivesTheContextItWasMadeWith) {
  const Problem problem(case_of(2));
  Plan prepared;
  Outcome want;
  {
    const Context context = make(2);
    want = problem.run(context);
    const Status status = plan(context, problem.args(), &prepared);
    ASSERT_TRUE(status.ok()) << status.message();
  }
  problem.poison_outputs();
  const Status status = prepared.run(problem.args());
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

TEST(ProcessWideContext, IsMadeOnceByManyFirstCallers) {
  const Outcome want = Problem(case_of(1)).run(context_of(ContextOptions{}));
  std::atomic<int> wrong{0};
  std::atomic<bool> made{false};
  const auto call = [&](const Problem& problem) {
    if (!attention_forward(problem.args()).ok() || !same_bits(problem.outcome(), want)) ++wrong;
  };
  // Nothing but the library hands the context over to this caller: ThreadSanitizer sees whether it does.
  std::thread late([&] {
    const Problem problem(case_of(1));
    problem.poison_outputs();
    while (!made.load(std::memory_order_relaxed)) std::this_thread::yield();
    call(problem);
  });
  together(8, [&](int) {
    const Problem problem(case_of(1));
    problem.poison_outputs();
    call(problem);
    made.store(true, std::memory_order_relaxed);
  });
  late.join();
  EXPECT_EQ(wrong, 0);
}

INSTANTIATE_TEST_SUITE_P(Executor, Concurrency, ::testing::ValuesIn(kAllExecutors), StringName());

}  // namespace
}  // namespace kumiko::test
