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
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rows, Parallel, testing::Values("openmp", "tbb"),
                         [](const auto& row) { return row.param; });

// A bound executor's TBB workers are back where they were once it is gone, and serve the next arena unbound.
TEST(ParallelTbb, WorkersGetTheirMasksBack) {
  const Topology host = machine("");
  const int n = std::min(host.num_cores(), 4);
  const Assignment assignment = test::one_task_each(n, host.domains.size());
  static cpu_set_t expected;
  static std::atomic<int> wrong;
  ASSERT_EQ(sched_getaffinity(0, sizeof expected, &expected), 0);
  wrong = 0;
  for (int i = 0; i < 5; ++i) {
    std::string error;
    {
      auto bound = find_executor("tbb")->create({host, n, Bind::close}, error);
      ASSERT_NE(bound, nullptr) << error;
      Meeting meeting{bound.get(), true, n};
      ASSERT_TRUE(bound->run({&assignment, Meeting::body, &meeting, 0}));
      EXPECT_EQ(meeting.wrong_mask.load(), 0);
    }
    auto free = find_executor("tbb")->create({host, n, Bind::none}, error);
    ASSERT_NE(free, nullptr) << error;
    const auto body = [](void*, std::int32_t, const Slot&) noexcept {
      cpu_set_t mask;
      sched_getaffinity(0, sizeof mask, &mask);
      if (!CPU_EQUAL(&mask, &expected)) ++wrong;
    };
    ASSERT_TRUE(free->run({&assignment, body, nullptr, 0}));
  }
  EXPECT_EQ(wrong.load(), 0);
}

}  // namespace
}  // namespace kumiko::scheduler
