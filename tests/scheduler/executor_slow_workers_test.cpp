// SPDX-License-Identifier: Apache-2.0
// Workers that are slow to come, and slow to go.
#include <gtest/gtest.h>
#include <malloc.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <thread>

#include "tests/scheduler/executor_probe.h"
#include "tests/support/threads.h"

namespace {

std::atomic<bool> g_holds{false};  // One who is to be bound waits, after some who need not.
std::atomic<int> g_let_pass{0};
std::atomic<int> g_held{0};
std::atomic<bool> g_spoils_freed{false};  // What is freed is overwritten, and nobody's again.

}  // namespace

#ifndef __SANITIZE_ADDRESS__  // which does as much, and would miss its own operator new
namespace {
void spoil_or_free(void* memory) noexcept {
  if (memory == nullptr || !g_spoils_freed) return std::free(memory);
  std::memset(memory, 0xa5, malloc_usable_size(memory));
}
}  // namespace
void operator delete(void* memory) noexcept {
  spoil_or_free(memory);
}
void operator delete(void* memory, std::size_t) noexcept {
  spoil_or_free(memory);
}
void operator delete(void* memory, std::align_val_t) noexcept {
  spoil_or_free(memory);
}
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  spoil_or_free(memory);
}
#endif

extern "C" {
int __real_sched_setaffinity(pid_t thread, std::size_t bytes, const cpu_set_t* mask);
int __wrap_sched_setaffinity(pid_t thread, std::size_t bytes, const cpu_set_t* mask) {
  if (g_holds && g_let_pass-- <= 0 && g_held++ == 0) g_holds.wait(true);
  return __real_sched_setaffinity(thread, bytes, mask);
}
}

namespace kumiko::scheduler {
namespace {

void wait_until_one_is_held() {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (g_held == 0 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
}

void hold(int after) {
  g_held = 0;
  g_let_pass = after;
  g_holds = true;
}

void let_go() {
  g_holds = false;
  g_holds.notify_all();
}

std::unique_ptr<Executor> two_threads(const Topology& topology, const char* name = "tbb") {
  std::string error;
  auto executor = find_executor(name)->create({topology, 2, Bind::close}, error);
  EXPECT_NE(executor, nullptr) << error;
  return executor;
}

// A worker that comes when the caller has done all tasks alone may still be there when the executor goes.
TEST(ParallelTbb, TheEndWaitsForAWorkerThatIsStillInside) {
  const Topology host = test::machine("");
  auto executor = two_threads(host);
  const auto until_held = [](void*, std::int32_t, const Slot&) noexcept { wait_until_one_is_held(); };
  const Assignment assignment = test::one_task_each(2, host.domains.size());
  hold(0);
  ASSERT_TRUE(executor->run({&assignment, until_held, nullptr, 0}));
  EXPECT_EQ(g_held, 1) << "the worker was invited and did not come";
  std::atomic<bool> is_gone{false};
  std::thread end([&] {
    executor.reset();
    is_gone = true;
  });
  EXPECT_TRUE(test::all_others_come_to_rest());
  EXPECT_FALSE(is_gone) << "the executor's memory is free, and a worker is inside";
  let_go();
  end.join();
}

bool comes_true(const std::atomic<bool>& condition) {
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (!condition && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  return condition;
}

struct CallersTasks {
  static void body(void* context, std::int32_t, const Slot&) noexcept {
    auto& tasks = *static_cast<CallersTasks*>(context);
    tasks.ran += gettid() == tasks.caller;
  }
  const pid_t caller = gettid();
  std::atomic<int> ran{0};
};

// oneTBB may have no thread to spare for as long as an executor lives. Its invitation is taken up later, and
// must not lead to where it was.
TEST(ParallelTbb, AnInvitationTakenUpAfterTheEndLeadsNowhere) {
  const tbb::global_control one_worker(tbb::global_control::max_allowed_parallelism, 2);
  tbb::task_arena users(1, 0);
  std::atomic<bool> is_busy{false}, may_go{false}, is_done{false};
  users.enqueue([&] {
    is_busy = true;
    comes_true(may_go);
    is_done = true;
  });
  ASSERT_TRUE(comes_true(is_busy));
  auto executor = two_threads(test::machine("core:2 pu:1"));
  CallersTasks tasks;
  const Assignment assignment = test::one_task_each(2, 1);
  ASSERT_TRUE(executor->run({&assignment, CallersTasks::body, &tasks, 0}));
  EXPECT_EQ(tasks.ran, 2) << "the one worker there is was to be busy";
  g_spoils_freed = true;
  executor.reset();
  g_spoils_freed = false;
  may_go = true;
  EXPECT_TRUE(comes_true(is_done));
  test::all_others_come_to_rest();  // The worker has taken it up by then, at the latest.
}

// Whoever starts late finds its executor by a variable that the next one to be made uses as well.
TEST(ParallelOpenMp, AnExecutorIsMadeWhenTheLastOfItsWorkersIsThere) {
  const Topology host = test::machine("");
  std::atomic<bool> is_made{false};
  hold(1);
  std::thread maker([&] {
    const auto executor = two_threads(host, "openmp");
    is_made = true;
  });
  wait_until_one_is_held();
  EXPECT_EQ(g_held, 1) << "the second worker was to be held";
  EXPECT_TRUE(test::all_others_come_to_rest());
  EXPECT_FALSE(is_made) << "a worker is still to come";
  let_go();
  maker.join();
}

// A worker that is about to leave when the next job is posted counts as invited and must look again. Each
// call ends only with both threads in it.
TEST(ParallelTbb, AWorkerIsThereForEachOfManyCallsInARow) {
  const auto executor = two_threads(test::machine("core:2 pu:1"));
  const Assignment assignment = test::one_task_each(2, 1);
  for (int i = 0; i < 20000; ++i) {
    test::Meeting meeting{executor.get(), false, 2};
    ASSERT_TRUE(executor->run({&assignment, test::Meeting::body, &meeting, 0}));
    ASSERT_EQ(meeting.gave_up.load(), 0) << "the worker did not come to call " << i;
  }
}

}  // namespace
}  // namespace kumiko::scheduler
