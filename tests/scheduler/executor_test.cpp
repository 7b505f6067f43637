// Executors: every promise of scheduler/executor.h, for every row of the table.
#include "scheduler/executor.h"

#include <gtest/gtest.h>
#include <oneapi/tbb/global_control.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <numeric>
#include <thread>

#include "tests/scheduler/machines.h"
#include "tests/support/random.h"

namespace kumiko::scheduler {
namespace {

using test::machine;

// As many TBB threads as the largest executor here has, however small the machine.
const tbb::global_control kTbbThreads(tbb::global_control::max_allowed_parallelism, 9);

constexpr char kTwoDomains[] = "numa:2 l3:1 core:4 pu:1";

// What holds for all bodies of one executor, checked from inside them.
struct Watch {
  explicit Watch(const Executor& executor)
      : owner(static_cast<std::size_t>(executor.concurrency())), domain(owner.size()) {
    for (std::size_t i = 0; i < domain.size(); ++i) domain[i] = executor.seats()[i].domain;
  }

  std::vector<std::atomic<int>> owner;  // Bodies running in each slot.
  std::vector<int> domain;
  std::atomic<int> running{0};
  std::atomic<int> high_water{0};
  std::atomic<int> faults{0};
};

// A job that counts its tasks and checks slot and scratch. Plain counters: that tasks are visible to the
// caller is run()'s word.
struct Probe {
  Probe(Watch& shared, const std::vector<int>& tasks_per_domain, std::size_t scratch)
      : watch(shared),
        times_run(
            static_cast<std::size_t>(std::accumulate(tasks_per_domain.begin(), tasks_per_domain.end(), 0))) {
    assignment.domain_begin.push_back(0);
    for (const int n : tasks_per_domain)
      assignment.domain_begin.push_back(assignment.domain_begin.back() + n);
    for (int i = static_cast<int>(times_run.size()); i > 0; --i) assignment.order.push_back(i - 1);
    job = {&assignment, body, this, scratch};
  }

  static void body(void* context, std::int32_t task, const Slot& slot) noexcept {
    auto& probe = *static_cast<Probe*>(context);
    Watch& watch = probe.watch;
    const int running = watch.running.fetch_add(1) + 1;
    for (int seen = watch.high_water.load();
         seen < running && !watch.high_water.compare_exchange_weak(seen, running);) {
    }
    const bool in_range = slot.index >= 0 && slot.index < static_cast<int>(watch.owner.size());
    if (!in_range || watch.owner[slot.index].fetch_add(1) != 0 || watch.domain[slot.index] != slot.domain)
      ++watch.faults;
    const std::size_t bytes = probe.job.scratch_bytes;
    if (reinterpret_cast<std::uintptr_t>(slot.scratch) % 64 != 0) ++watch.faults;
    if (bytes > 0) {
      // Anybody else in this scratch would overwrite these, and ThreadSanitizer would see it.
      slot.scratch[0] = slot.scratch[bytes - 1] = static_cast<std::byte>(task);
      for (int i = 0; i < probe.work; ++i) asm volatile("");
      if (slot.scratch[0] != static_cast<std::byte>(task) ||
          slot.scratch[bytes - 1] != static_cast<std::byte>(task))
        ++watch.faults;
    }
    ++probe.times_run[task];
    if (in_range) watch.owner[slot.index].fetch_sub(1);
    watch.running.fetch_sub(1);
  }

  bool each_ran_once() const {
    return std::all_of(times_run.begin(), times_run.end(), [](int n) { return n == 1; });
  }

  Watch& watch;
  int work = 200;
  std::vector<int> times_run;
  Assignment assignment;
  Job job;
};

class ExecutorTest : public testing::TestWithParam<std::string> {
 protected:
  static std::unique_ptr<Executor> create(const Topology& topology, int num_threads,
                                          Bind bind = Bind::close) {
    std::string error;
    auto executor = find_executor(GetParam())->create({topology, num_threads, bind}, error);
    EXPECT_NE(executor, nullptr) << error;
    return executor;
  }

  static void expect_clean(const Watch& watch) {
    EXPECT_EQ(watch.faults.load(), 0) << "slot shared, wrong domain, or scratch too small or shared";
    EXPECT_LE(watch.high_water.load(), static_cast<int>(watch.owner.size()))
        << "more threads running than allowed";
  }
};
using Parallel = ExecutorTest;  // Needs threads that run side by side.

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
  const auto executor = create(machine(kTwoDomains), 3);
  Watch watch(*executor);
  ASSERT_TRUE(executor->reserve(1000));
  EXPECT_FALSE(executor->reserve(std::size_t{1} << 62));
  Probe impossible(watch, {3, 3}, std::size_t{1} << 62);
  EXPECT_FALSE(executor->run(impossible.job));
  EXPECT_EQ(watch.high_water.load(), 0) << "no task ran";
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

// Tasks that wait for each other, as many as there are threads: they end only side by side.
struct Meeting {
  const Executor* executor;
  bool is_bound;
  int parties;
  pid_t caller = gettid();
  std::atomic<int> present{0};
  std::atomic<int> gave_up{0};
  std::atomic<int> wrong_mask{0};
  std::atomic<int> takes_signals{0};

  static void body(void* context, std::int32_t, const Slot& slot) noexcept {
    auto& meeting = *static_cast<Meeting*>(context);
    if (gettid() != meeting.caller) {
      cpu_set_t mask;
      CPU_ZERO(&mask);
      sched_getaffinity(0, sizeof mask, &mask);
      const int cpu = meeting.executor->seats()[slot.index].os_cpu;
      if (meeting.is_bound && (CPU_COUNT(&mask) != 1 || !CPU_ISSET(cpu, &mask))) ++meeting.wrong_mask;
      sigset_t blocked;
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      if (!sigismember(&blocked, SIGTERM)) ++meeting.takes_signals;
    }
    ++meeting.present;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    int seen = meeting.present.load();
    while (seen < meeting.parties && std::chrono::steady_clock::now() < give_up) {
      std::this_thread::yield();
      seen = meeting.present.load();
    }
    if (seen < meeting.parties) ++meeting.gave_up;
  }
};

bool operator==(const cpu_set_t& a, const cpu_set_t& b) {
  return CPU_EQUAL(&a, &b);
}

TEST_P(Parallel, WorkersSitOnTheirSeatsAndTheCallerStaysWhereItWas) {
  const Topology host = machine("");
  const int n = std::min(host.num_cores(), 4);
  for (const Bind bind : {Bind::close, Bind::spread, Bind::none}) {
    const auto executor = create(host, n, bind);
    cpu_set_t before;
    cpu_set_t after;
    ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
    Assignment assignment;
    assignment.domain_begin.assign(host.domains.size() + 1, n);
    assignment.domain_begin[0] = 0;
    assignment.order.resize(static_cast<std::size_t>(n));
    std::iota(assignment.order.begin(), assignment.order.end(), 0);
    for (int i = 0; i < 3; ++i) {
      Meeting meeting{executor.get(), bind != Bind::none, n};
      ASSERT_TRUE(executor->run({&assignment, Meeting::body, &meeting, 64}));
      EXPECT_EQ(meeting.present.load(), n);
      EXPECT_EQ(meeting.gave_up.load(), 0) << "fewer than " << n << " threads came";
      EXPECT_EQ(meeting.wrong_mask.load(), 0);
      // oneTBB's workers belong to the whole process, so their masks are its owner's business.
      EXPECT_TRUE(GetParam() != "openmp" || meeting.takes_signals.load() == 0);
      ASSERT_EQ(sched_getaffinity(0, sizeof after, &after), 0);
      EXPECT_TRUE(before == after);
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

INSTANTIATE_TEST_SUITE_P(Rows, Parallel, testing::Values("openmp", "tbb"), kName);

// A bound executor's TBB workers are back where they were once it is gone, and serve the next arena unbound.
TEST(ParallelTbb, WorkersGetTheirMasksBack) {
  const Topology host = machine("");
  const int n = std::min(host.num_cores(), 4);
  Assignment assignment;
  assignment.domain_begin.assign(host.domains.size() + 1, n);
  assignment.domain_begin[0] = 0;
  assignment.order.resize(static_cast<std::size_t>(n));
  std::iota(assignment.order.begin(), assignment.order.end(), 0);
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
