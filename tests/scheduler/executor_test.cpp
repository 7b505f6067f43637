// SPDX-License-Identifier: Apache-2.0
// Executors: every promise of scheduler/executor.h, for every row of the table.
#include "scheduler/executor.h"

#include <gtest/gtest.h>
#include <oneapi/tbb/global_control.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/scheduler/executor_probe.h"
#include "tests/support/random.h"

namespace kumiko::scheduler {
namespace {

using test::ExecutorTest;
using test::kTwoDomains;
using test::machine;
using test::Probe;
using test::Watch;

// As many TBB threads as the largest executor here has, however small the machine.
const tbb::global_control kTbbThreads(tbb::global_control::max_allowed_parallelism, 9);

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const ExecutorRow& row : executors()) result.emplace_back(row.name);
  return result;
}
const auto kName = [](const auto& row) { return row.param; };
INSTANTIATE_TEST_SUITE_P(Rows, ExecutorTest, testing::ValuesIn(names()), kName);

TEST(Executors, Table) {
  EXPECT_EQ(names(), (std::vector<std::string>{"openmp", "tbb", "serial"}));
  EXPECT_EQ(find_executor("cilk"), nullptr);
  EXPECT_EQ(find_executor(""), nullptr);
}

TEST_P(ExecutorTest, RefusesWhatCannotBe) {
  std::string error;
  for (const int n : {0, -3}) {
    EXPECT_EQ(find_executor(GetParam())->create({machine(kTwoDomains), n, Bind::close}, error), nullptr);
    EXPECT_NE(error.find("num_threads: " + std::to_string(n)), std::string::npos) << error;
  }
  EXPECT_EQ(find_executor(GetParam())->create({Topology{}, 1, Bind::close}, error), nullptr);
  EXPECT_NE(error.find("topology"), std::string::npos) << error;
}

TEST_P(ExecutorTest, SaysWhatItIs) {
  const auto executor = create(machine(kTwoDomains), 5);
  EXPECT_EQ(executor->name(), GetParam());
  EXPECT_EQ(executor->concurrency(), 5);
  EXPECT_EQ(executor->workers_per_domain(), (std::vector<int>{4, 1}));
  EXPECT_EQ(create(machine(kTwoDomains), 3)->workers_per_domain(), (std::vector<int>{3, 0}));
  EXPECT_EQ(create(machine(kTwoDomains), 3, Bind::spread)->workers_per_domain(), (std::vector<int>{2, 1}));
}

TEST_P(ExecutorTest, EachTaskOnce) {
  test::Random random(test::test_seed(11));
  for (int n = 1; n <= 8; ++n) {
    const auto executor =
        create(machine(kTwoDomains), n, random.pick({Bind::close, Bind::spread, Bind::none}));
    Watch watch(*executor);
    for (int i = 0; i < 40; ++i) {
      const std::vector<int> tasks = {static_cast<int>(random.between(0, 30)),
                                      static_cast<int>(random.pick({0, 1, 50}))};
      Probe probe(watch, tasks, static_cast<std::size_t>(random.between(0, 9000)));
      ASSERT_TRUE(executor->run(probe.job));
      EXPECT_TRUE(probe.each_ran_once()) << n << " threads, " << tasks[0] << " and " << tasks[1] << " tasks";
    }
    expect_clean(watch);
  }
}

TEST_P(ExecutorTest, NoTasks) {
  const auto executor = create(machine(kTwoDomains), 3);
  Watch watch(*executor);
  for (const auto& tasks : {std::vector<int>{0, 0}, {}}) {
    Probe probe(watch, tasks, 64);
    EXPECT_TRUE(executor->run(probe.job));
    EXPECT_EQ(watch.high_water.load(), 0);
  }
}

TEST_P(ExecutorTest, AssignmentForMoreOrFewerDomainsThanTheMachineHas) {
  const auto executor = create(machine(kTwoDomains), 6);
  Watch watch(*executor);
  for (const std::size_t domains : {1u, 3u, 31u, 32u, 33u, 100u, 257u}) {
    std::vector<int> tasks(domains, 2);
    tasks[0] = 0;
    tasks.back() = 5;
    Probe probe(watch, tasks, 64);
    ASSERT_TRUE(executor->run(probe.job));
    EXPECT_TRUE(probe.each_ran_once()) << domains;
  }
  expect_clean(watch);
}

// With one thread the order is all there is to see: own domain first, then the others, each in the
// assignment's order.
TEST_P(ExecutorTest, OneThreadTakesTasksInOrder) {
  for (const int domains : {1, 3, 40}) {
    const auto executor = create(machine("numa:2 l3:1 core:2 pu:1"), 1);
    struct Log {
      std::vector<int> tasks;
      static void body(void* context, std::int32_t task, const Slot&) noexcept {
        static_cast<Log*>(context)->tasks.push_back(task);
      }
    } log;
    Assignment assignment;
    for (int d = 0; d <= domains; ++d) assignment.domain_begin.push_back(2 * d);
    for (int i = 0; i < 2 * domains; ++i) assignment.order.push_back((i * 7) % (2 * domains));
    log.tasks.reserve(assignment.order.size());
    ASSERT_TRUE(executor->run({&assignment, Log::body, &log, 0}));
    EXPECT_EQ(log.tasks, assignment.order);
  }
}

TEST_P(ExecutorTest, ThirtyTwoCallersAtOnce) {
  for (const int n : {1, 2, 3, 8}) {
    const auto executor = create(machine(kTwoDomains), n);
    ASSERT_TRUE(executor->reserve(4096));
    Watch watch(*executor);
    std::atomic<int> failures{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 32; ++c) {
      callers.emplace_back([&, c] {
        test::Random random(static_cast<std::uint64_t>(c));
        for (int i = 0; i < 20; ++i) {
          Probe probe(watch,
                      {static_cast<int>(random.between(0, 12)), static_cast<int>(random.between(0, 12))},
                      4096);
          if (!executor->run(probe.job) || !probe.each_ran_once()) ++failures;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(failures.load(), 0) << n;
    expect_clean(watch);
  }
}

// More callers than the executor can list at a time.
TEST_P(ExecutorTest, HundredCallersAtOnce) {
  for (const int n : {1, 2}) {
    const auto executor = create(machine(kTwoDomains), n);
    Watch watch(*executor);
    std::atomic<int> failures{0};
    std::vector<std::thread> callers;
    for (int c = 0; c < 100; ++c) {
      callers.emplace_back([&] {
        for (int i = 0; i < 3; ++i) {
          Probe probe(watch, {2, 1}, 64);
          probe.work = 20000;
          if (!executor->run(probe.job) || !probe.each_ran_once()) ++failures;
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    EXPECT_EQ(failures.load(), 0) << n;
    expect_clean(watch);
  }
}

// Ends only if callers who come again at once do not keep another one out.
TEST_P(ExecutorTest, NobodyStarves) {
  const auto executor = create(machine(kTwoDomains), 1);
  Watch watch(*executor);
  std::atomic<bool> done{false};
  std::vector<std::thread> greedy;
  for (int c = 0; c < 3; ++c) {
    greedy.emplace_back([&] {
      while (!done) {
        Probe probe(watch, {4, 0}, 64);
        probe.work = 5000;
        executor->run(probe.job);
      }
    });
  }
  bool ok = true;
  for (int i = 0; i < 20; ++i) {
    Probe probe(watch, {3, 0}, 64);
    ok = ok && executor->run(probe.job) && probe.each_ran_once();
  }
  done = true;
  for (std::thread& caller : greedy) caller.join();
  EXPECT_TRUE(ok);
  expect_clean(watch);
}

TEST_P(ExecutorTest, ReserveWhileJobsRun) {
  const auto executor = create(machine(kTwoDomains), 4);
  Watch watch(*executor);
  std::atomic<std::size_t> reserved{64};
  std::atomic<int> failures{0};
  std::atomic<bool> done{false};
  ASSERT_TRUE(executor->reserve(64));
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      while (!done) {
        Probe probe(watch, {9, 9}, reserved.load());
        if (!executor->run(probe.job) || !probe.each_ran_once()) ++failures;
      }
    });
  }
  for (std::size_t bytes = 64; bytes <= (std::size_t{3} << 20); bytes += bytes / 3) {
    if (!executor->reserve(bytes)) ++failures;
    reserved = bytes;
    std::this_thread::yield();
  }
  done = true;
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failures.load(), 0);
  expect_clean(watch);
}

TEST_P(ExecutorTest, ShortMemoryChangesNothing) {
  // Of 4 slots in a domain; 4 * 2^62 is 0 in 64 bits.
  const auto executor = create(machine(kTwoDomains), 4);
  Watch watch(*executor);
  ASSERT_TRUE(executor->reserve(1000));
  for (const std::size_t bytes :
       {std::size_t{1} << 58, std::size_t{1} << 62, static_cast<std::size_t>(PTRDIFF_MAX), SIZE_MAX}) {
    EXPECT_FALSE(executor->reserve(bytes)) << bytes;
    Probe impossible(watch, {3, 3}, bytes);
    EXPECT_FALSE(executor->run(impossible.job)) << bytes;
    EXPECT_EQ(watch.high_water.load(), 0) << "a task ran";
  }
  Probe probe(watch, {3, 3}, 1000);
  EXPECT_TRUE(executor->run(probe.job));
  EXPECT_TRUE(probe.each_ran_once());
  expect_clean(watch);
}

// Workers in every state between starting, spinning and sleeping when the end comes.
TEST_P(ExecutorTest, ComesAndGoes) {
  for (int i = 0; i < 30; ++i) {
    const auto executor = create(machine(kTwoDomains), 1 + i % 5);
    Watch watch(*executor);
    for (int k = 0; k < i % 3; ++k) {
      Probe probe(watch, {5, 5}, 128);
      ASSERT_TRUE(executor->run(probe.job));
      EXPECT_TRUE(probe.each_ran_once());
    }
    if (i % 4 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    expect_clean(watch);
  }
}

TEST_P(ExecutorTest, TwoAtOnce) {
  const auto a = create(machine(kTwoDomains), 3);
  const auto b = create(machine(kTwoDomains), 2);
  Watch watch_a(*a);
  Watch watch_b(*b);
  std::atomic<int> failures{0};
  const auto call = [&](Executor& executor, Watch& watch) {
    for (int i = 0; i < 50; ++i) {
      Probe probe(watch, {6, 6}, 512);
      if (!executor.run(probe.job) || !probe.each_ran_once()) ++failures;
    }
  };
  std::thread other([&] { call(*b, watch_b); });
  call(*a, watch_a);
  other.join();
  EXPECT_EQ(failures.load(), 0);
  expect_clean(watch_a);
  expect_clean(watch_b);
}

TEST_P(ExecutorTest, RunsWhoeverCallsAfterTheWorkersFellAsleep) {
  const auto executor = create(machine(kTwoDomains), 4);
  Watch watch(*executor);
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(500));
    Probe probe(watch, {4, 4}, 64);
    probe.work = 20000;
    ASSERT_TRUE(executor->run(probe.job));
    EXPECT_TRUE(probe.each_ran_once());
  }
  expect_clean(watch);
}

}  // namespace
}  // namespace kumiko::scheduler
