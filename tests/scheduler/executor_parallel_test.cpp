// SPDX-License-Identifier: Apache-2.0
// Executors with threads that run side by side: that all come, and where they and the caller sit.
#include <gtest/gtest.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "scheduler/executor.h"
#include "tests/scheduler/executor_probe.h"

namespace kumiko::scheduler {
namespace {

using test::kTwoDomains;
using test::machine;
using test::Meeting;
using Parallel = test::ExecutorTest;

TEST_P(Parallel, WorkersSitOnTheirSeatsAndTheCallerStaysWhereItWas) {
  const Topology host = machine("");
  const int n = std::min(host.num_cores(), 4);
  for (const Bind bind : {Bind::close, Bind::spread, Bind::none}) {
    const auto executor = create(host, n, bind);
    cpu_set_t before;
    cpu_set_t after;
    ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
    const Assignment assignment = test::one_task_each(n, host.domains.size());
    for (int i = 0; i < 3; ++i) {
      Meeting meeting{executor.get(), bind != Bind::none, n};
      ASSERT_TRUE(executor->run({&assignment, Meeting::body, &meeting, 64}));
      EXPECT_EQ(meeting.present.load(), n);
      EXPECT_EQ(meeting.gave_up.load(), 0) << "fewer than " << n << " threads came";
      EXPECT_EQ(meeting.wrong_mask.load(), 0);
      EXPECT_EQ(meeting.blocks_faults.load(), 0) << "faults stay where they happen, and profilers work";
      // oneTBB's workers belong to the whole process, so their masks are its owner's business.
      EXPECT_TRUE(GetParam() != "openmp" || meeting.takes_signals.load() == 0);
      ASSERT_EQ(sched_getaffinity(0, sizeof after, &after), 0);
      EXPECT_TRUE(CPU_EQUAL(&before, &after));
    }
  }
}

// One call wakes all, wherever the caller sits and however long they have slept.
TEST_P(Parallel, EveryWorkerComes) {
  for (const int n : {2, 3, 8}) {
    const auto executor = create(machine(kTwoDomains), n);
    Assignment assignment;
    assignment.domain_begin = {0, n / 2, n};
    assignment.order.resize(static_cast<std::size_t>(n));
    std::iota(assignment.order.begin(), assignment.order.end(), 0);
    for (int i = 0; i < 20; ++i) {
      if (i % 2 == 0) std::this_thread::sleep_for(std::chrono::microseconds(300));
      Meeting meeting{executor.get(), false, n};
      ASSERT_TRUE(executor->run({&assignment, Meeting::body, &meeting, 0}));
      EXPECT_EQ(meeting.present.load(), n);
      ASSERT_EQ(meeting.gave_up.load(), 0) << "fewer than " << n << " threads came";
      EXPECT_EQ(meeting.wrong_mask.load(), 0) << "bound to a CPU of a machine that is not here";
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Parallel, testing::Values("openmp", "tbb"),
                         [](const auto& row) { return row.param; });

// The threads other than the caller's that took tasks of the executor, as many as its seats allow: each task
// waits for all.
std::vector<pid_t> helpers_of(Executor& executor, std::size_t domains) {
  struct Helpers {
    Meeting meeting;
    std::vector<pid_t> threads;
    static void body(void* context, std::int32_t task, const Slot& slot) noexcept {
      auto& helpers = *static_cast<Helpers*>(context);
      helpers.threads[static_cast<std::size_t>(task)] = gettid();
      Meeting::body(&helpers.meeting, task, slot);
    }
  };
  const int n = executor.concurrency();
  Helpers helpers{{&executor, true, n}, std::vector<pid_t>(static_cast<std::size_t>(n))};
  const Assignment assignment = test::one_task_each(n, domains);
  EXPECT_TRUE(executor.run({&assignment, Helpers::body, &helpers, 0}));
  EXPECT_EQ(helpers.meeting.gave_up.load(), 0) << "fewer than " << n << " threads came";
  EXPECT_EQ(helpers.meeting.wrong_mask.load(), 0);
  std::erase(helpers.threads, gettid());
  return helpers.threads;
}

bool all_have_mask(const std::vector<pid_t>& threads, const cpu_set_t& expected) {
  return std::all_of(threads.begin(), threads.end(), [&](pid_t thread) {
    cpu_set_t mask;
    return sched_getaffinity(thread, sizeof mask, &mask) == 0 && CPU_EQUAL(&mask, &expected);
  });
}

// A bound executor's TBB workers are back where they were once it is gone, even those that its end finds in
// its arenas.
TEST(ParallelTbb, WorkersGetTheirMasksBack) {
  const Topology host = machine("");
  if (host.num_cores() < 2)
    GTEST_SKIP() << "needs two cores, one for the caller and one for a foreign worker";
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  for (int i = 0; i < 50; ++i) {
    std::string error;
    auto bound = find_executor("tbb")->create({host, std::min(host.num_cores(), 4), Bind::close}, error);
    ASSERT_NE(bound, nullptr) << error;
    const std::vector<pid_t> helpers = helpers_of(*bound, host.domains.size());
    ASSERT_FALSE(helpers.empty());
    bound.reset();
    ASSERT_TRUE(all_have_mask(helpers, before)) << "round " << i;
  }
}

// And while it lives, once they leave: the next arena they work for may be anybody's.
TEST(ParallelTbb, WorkersThatLeaveGetTheirMasksBack) {
  const Topology host = machine("");
  if (host.num_cores() < 2)
    GTEST_SKIP() << "needs two cores, one for the caller and one for a foreign worker";
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  std::string error;
  const auto bound = find_executor("tbb")->create({host, std::min(host.num_cores(), 4), Bind::close}, error);
  ASSERT_NE(bound, nullptr) << error;
  for (int i = 0; i < 3; ++i) {
    const std::vector<pid_t> helpers = helpers_of(*bound, host.domains.size());
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (!all_have_mask(helpers, before) && std::chrono::steady_clock::now() < give_up)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(all_have_mask(helpers, before)) << "bound for a minute after the last task";
  }
}

}  // namespace
}  // namespace kumiko::scheduler
