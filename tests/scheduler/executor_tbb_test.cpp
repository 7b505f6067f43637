// oneTBB's workers on their way out.
#include <gtest/gtest.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>

#include "tests/scheduler/executor_probe.h"
#include "tests/support/threads.h"

namespace {

std::atomic<bool> g_holds{false};  // Whoever is to be bound waits.
std::atomic<int> g_held{0};

}  // namespace

extern "C" {
int __real_sched_setaffinity(pid_t thread, std::size_t bytes, const cpu_set_t* mask);
int __wrap_sched_setaffinity(pid_t thread, std::size_t bytes, const cpu_set_t* mask) {
  if (g_holds) {
    ++g_held;
    g_holds.wait(true);
  }
  return __real_sched_setaffinity(thread, bytes, mask);
}
}

namespace kumiko::scheduler {
namespace {

std::unique_ptr<Executor> two_threads(const Topology& topology) {
  std::string error;
  auto executor = find_executor("tbb")->create({topology, 2, Bind::close}, error);
  EXPECT_NE(executor, nullptr) << error;
  return executor;
}

// A worker that comes when the caller has done all tasks alone may still be there when the executor goes.
TEST(ParallelTbb, TheEndWaitsForAWorkerThatIsStillInside) {
  const Topology host = test::machine("");
  auto executor = two_threads(host);
  const auto until_held = [](void*, std::int32_t, const Slot&) noexcept {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (g_held == 0 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  };
  const Assignment assignment = test::one_task_each(2, host.domains.size());
  g_holds = true;
  ASSERT_TRUE(executor->run({&assignment, until_held, nullptr, 0}));
  EXPECT_EQ(g_held, 1) << "the worker was invited and did not come";
  std::atomic<bool> is_gone{false};
  std::thread end([&] {
    executor.reset();
    is_gone = true;
  });
  EXPECT_TRUE(test::all_others_come_to_rest());
  EXPECT_FALSE(is_gone) << "the executor's memory is free, and a worker is inside";
  g_holds = false;
  g_holds.notify_all();
  end.join();
}

// A worker that is about to leave when the next job is posted counts as invited and must look again. Each
// call ends only with both threads in it.
TEST(ParallelTbb, AWorkerIsThereForEachOfManyCallsInARow) {
  const auto executor = two_threads(test::machine("core:2 pu:1"));
  const Assignment assignment = test::one_task_each(2, 1);
  for (int i = 0; i < 3000; ++i) {
    test::Meeting meeting{executor.get(), false, 2};
    ASSERT_TRUE(executor->run({&assignment, test::Meeting::body, &meeting, 0}));
    ASSERT_EQ(meeting.gave_up.load(), 0) << "the worker did not come to call " << i;
  }
}

}  // namespace
}  // namespace kumiko::scheduler
