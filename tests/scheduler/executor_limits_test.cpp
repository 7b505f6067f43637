// SPDX-License-Identifier: Apache-2.0
// Executors where the process or its user is in the way: threads that cannot be created, callers inside
// OpenMP regions and TBB tasks of their own.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <omp.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <numeric>
#include <thread>

#include "scheduler/executor.h"
#include "tests/scheduler/deny_syscalls.h"
#include "tests/scheduler/machines.h"

namespace {

// How many threads may live beside those that were there before; and how many do.
constexpr int kNoLimit = 1 << 20;
std::atomic<int> g_most_threads{kNoLimit};
std::atomic<int> g_threads{0};

struct Start {
  void* (*function)(void*);
  void* argument;
};

void* counted(void* context) {
  const Start start = *static_cast<Start*>(context);
  delete static_cast<Start*>(context);
  void* const result = start.function(start.argument);
  if (g_most_threads < kNoLimit) usleep(5000);  // so that one that nobody joins is seen
  --g_threads;
  return result;
}

}  // namespace

// In the place of the C library's, for libgomp and std::thread as well: as RLIMIT_NPROC or a container's
// limit of processes would, it refuses the thread that is one too many and no other.
extern "C" __attribute__((visibility("default"))) int pthread_create(pthread_t* thread,
                                                                     const pthread_attr_t* attributes,
                                                                     void* (*function)(void*),
                                                                     void* argument) {
  using Create = int (*)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);
  static const auto create = reinterpret_cast<Create>(dlsym(RTLD_NEXT, "pthread_create"));
  if (++g_threads > g_most_threads) {
    --g_threads;
    return EAGAIN;
  }
  auto* const start = new Start{function, argument};
  const int threads = g_threads;
  const int error = create(thread, attributes, counted, start);
  if (error != 0) {
    --g_threads;
    delete start;
  }
  // Time to end for one that does not stay: those that are asked for at once are to be there at once.
  if (g_most_threads < kNoLimit) {
    for (int ms = 0; ms < 20 && g_threads == threads; ++ms) usleep(1000);
  }
  return error;
}

namespace kumiko::scheduler {
namespace {

struct Count {
  Count() {
    assignment.domain_begin = {0, 10, 16};
    assignment.order.resize(16);
    std::iota(assignment.order.begin(), assignment.order.end(), 0);
  }
  static void body(void* context, std::int32_t, const Slot&) noexcept { ++static_cast<Count*>(context)->ran; }
  Job job() { return {&assignment, body, this, 1 << 12}; }

  Assignment assignment;
  std::atomic<int> ran{0};
};

// libgomp on its own would end the process here.
TEST(ThreadsDenied, OpenMpIsRefusedWithASentenceAndSerialGoesOn) {
  const Topology topology = test::machine("numa:2 l3:1 core:4 pu:1");
  const auto result = test::in_child([&] {
    if (!test::deny_syscalls({SYS_clone, SYS_clone3}, EAGAIN)) return 2;
    std::string error;
    if (find_executor("openmp")->create({topology, 4, Bind::none}, error) != nullptr) return 3;
    if (error.find("4 threads cannot be created") == std::string::npos) return 4;
    Count alone;
    const auto one = find_executor("openmp")->create({topology, 1, Bind::none}, error);
    if (one == nullptr || !one->run(alone.job()) || alone.ran != 16) return 5;
    Count serial;
    const auto four = find_executor("serial")->create({topology, 4, Bind::none}, error);
    if (four == nullptr || !four->run(serial.job()) || serial.ran != 16) return 6;
    return 0;
  });
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.output, "");
}

// n workers are n threads beside the caller's: of any fewer the last one is missing. libgomp would end the
// process.
TEST(ThreadsDenied, OpenMpIsRefusedForTheLastThreadAsForTheFirst) {
  const Topology topology = test::machine("core:4 pu:1");
  for (int most = 0; most <= 4; ++most) {
    const auto result = test::in_child([&] {
      g_threads = 0;
      g_most_threads = most;
      std::string error;
      auto executor = find_executor("openmp")->create({topology, 4, Bind::none}, error);
      if ((executor != nullptr) != (most == 4)) return 2;
      if (executor == nullptr && error.find("4 threads cannot be created") == std::string::npos) return 3;
      if (executor == nullptr && g_threads != 0) return 4;
      // What is left suffices for a smaller one.
      if (most == 3) executor = find_executor("openmp")->create({topology, 3, Bind::none}, error);
      Count count;
      if (most >= 3 && (executor == nullptr || !executor->run(count.job()) || count.ran != 16)) return 5;
      return 0;
    });
    EXPECT_EQ(result.status, 0) << most << " threads allowed; 2: created or not, 3: message, 4: threads left "
                                << "behind, 5: no run with as many as there are";
    EXPECT_EQ(result.output, "");
  }
}

// oneTBB counts on threads that a forked child does not have.
TEST(ThreadsDenied, OneTbbIsRefusedInTheChildOfAProcessThatUsedIt) {
  const Topology topology = test::machine("core:2 pu:1");
  std::string error;
  const auto executor = find_executor("tbb")->create({topology, 2, Bind::none}, error);
  ASSERT_NE(executor, nullptr) << error;
  const auto result = test::in_child([&] {
    std::string why;
    if (find_executor("tbb")->create({topology, 2, Bind::none}, why) != nullptr) return 2;
    if (why.find("forked") == std::string::npos) return 3;
    Count serial;
    const auto other = find_executor("serial")->create({topology, 2, Bind::none}, why);
    return other != nullptr && other->run(serial.job()) && serial.ran == 16 ? 0 : 4;
  });
  EXPECT_EQ(result.status, 0);
  EXPECT_EQ(result.output, "");
}

// A team of two has two workers and the service thread that opened their region, one of the two.
TEST(Spin, IdleWorkersSleepAfterTheTimeThatWasSet) {
  using std::chrono::seconds;
  const int own = test::other_threads().count;  // of an emulator, say; asleep
  const auto asleep_within = [own](std::chrono::microseconds spin, seconds patience) {
    // The threads of the executor before may take their time to end.
    EXPECT_TRUE(test::comes_to_rest([own](const auto& others) { return others.count == own; }, seconds(30)));
    std::string error;
    const ExecutorOptions options{test::machine("core:2 pu:1"), 2, Bind::none, spin};
    const auto executor = find_executor("openmp")->create(options, error);
    EXPECT_NE(executor, nullptr) << error;
    Count count;
    EXPECT_TRUE(executor->run(count.job()));
    return test::comes_to_rest([own](const auto& others) { return others.asleep >= own + 2; }, patience);
  };
  EXPECT_TRUE(asleep_within(std::chrono::microseconds(0), seconds(60)));
  EXPECT_TRUE(asleep_within(kDefaultSpin, seconds(60)));
  EXPECT_FALSE(asleep_within(std::chrono::hours(1), seconds(1)));
}

class InsideOpenMp : public testing::TestWithParam<std::string> {};

TEST_P(InsideOpenMp, CallersInTheUsersOwnRegions) {
  std::string error;
  const auto executor =
      find_executor(GetParam())->create({test::machine("numa:2 l3:1 core:4 pu:1"), 3, Bind::close}, error);
  ASSERT_NE(executor, nullptr) << error;
  std::atomic<int> failures{0};
  std::atomic<int> calls{0};
  for (int round = 0; round < 5; ++round) {
#pragma omp parallel num_threads(4)
    {
      for (int i = 0; i < 10; ++i) {
        Count count;
        if (!executor->run(count.job()) || count.ran != 16) ++failures;
        ++calls;
      }
#pragma omp barrier
#pragma omp single
      {
        Count count;
        if (!executor->run(count.job()) || count.ran != 16) ++failures;
        // And a new one made from within.
        std::string why;
        const auto inner =
            find_executor(GetParam())->create({test::machine("core:2 pu:1"), 2, Bind::none}, why);
        if (inner == nullptr || !inner->run(count.job()) || count.ran != 32) ++failures;
      }
    }
  }
  EXPECT_EQ(failures.load(), 0);
  EXPECT_GE(calls.load(), 50);
}

INSTANTIATE_TEST_SUITE_P(Rows, InsideOpenMp, testing::Values("openmp", "tbb", "serial"),
                         [](const auto& row) { return row.param; });

std::unique_ptr<Executor> two_domains(int num_threads) {
  std::string error;
  auto executor = find_executor("tbb")->create(
      {test::machine("numa:2 l3:1 core:4 pu:1"), num_threads, Bind::close}, error);
  EXPECT_NE(executor, nullptr) << error;
  return executor;
}

// oneTBB's workers all wait in the program's own tasks, for what comes after the calls.
TEST(InsideTbb, CallersNeedNoWorker) {
  const tbb::global_control nine(tbb::global_control::max_allowed_parallelism, 9);
  tbb::task_arena users(8, 0);
  std::atomic<int> waiting{0};
  std::atomic<int> gone{0};
  std::atomic<bool> go{false};
  for (int i = 0; i < 8; ++i) {
    users.enqueue([&] {
      ++waiting;
      while (!go) std::this_thread::yield();
      ++gone;
    });
  }
  while (waiting < 8) std::this_thread::yield();
  std::atomic<int> failures{0};
  for (int round = 0; round < 3; ++round) {
    const auto executor = two_domains(5);
    std::vector<std::thread> callers;
    for (int c = 0; c < 12; ++c) {
      callers.emplace_back([&] {
        for (int i = 0; i < 10; ++i) {
          Count count;
          if (!executor->run(count.job()) || count.ran != 16) ++failures;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
  }  // And its end waits for no worker either, although some were invited.
  EXPECT_EQ(waiting, 8);
  EXPECT_EQ(failures, 0);
  go = true;
  while (gone < 8) std::this_thread::yield();
}

TEST(InsideTbb, CallersInsideTheProgramsArenas) {
  const auto executor = two_domains(4);
  std::atomic<int> failures{0};
  std::atomic<int> calls{0};
  tbb::task_arena outer(3);
  tbb::task_arena inner(2);
  const auto call = [&] {
    Count count;
    if (!executor->run(count.job()) || count.ran != 16) ++failures;
    ++calls;
  };
  for (int i = 0; i < 10; ++i) {
    outer.execute([&] {
      tbb::parallel_for(0, 16, [&](int k) {
        call();
        if (k % 4 == 0) inner.execute([&] { tbb::parallel_for(0, 4, [&](int) { call(); }); });
      });
    });
  }
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(calls, 10 * (16 + 4 * 4));
}

}  // namespace
}  // namespace kumiko::scheduler
