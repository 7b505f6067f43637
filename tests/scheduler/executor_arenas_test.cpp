// SPDX-License-Identifier: Apache-2.0
// oneTBB's arenas, one for each domain: who is in which, who sits where, and that a caller needs nobody.
#include <gtest/gtest.h>
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "tests/scheduler/executor_probe.h"

namespace kumiko::scheduler {
namespace {

using test::kTwoDomains;
using test::machine;
using test::Probe;
using test::Watch;

std::unique_ptr<Executor> tbb_executor(const Topology& topology, int num_threads, Bind bind = Bind::close) {
  std::string error;
  auto executor = find_executor("tbb")->create({topology, num_threads, bind}, error);
  EXPECT_NE(executor, nullptr) << error;
  return executor;
}

// The first cores of this machine in domains of their own sizes. Empty where there are not so many.
Topology split_host(const std::vector<int>& cores_per_domain) {
  const Topology host = machine("");
  std::vector<Core> cores;
  for (const Domain& domain : host.domains)
    cores.insert(cores.end(), domain.cores.begin(), domain.cores.end());
  Topology split = host;
  split.domains.clear();
  std::size_t next = 0;
  for (const int count : cores_per_domain) {
    Domain domain = host.domains.front();
    domain.cores.clear();
    for (int i = 0; i < count; ++i) {
      if (next == cores.size()) return {};
      domain.cores.push_back(cores[next++]);
    }
    split.domains.push_back(domain);
  }
  return split;
}

void run_on(int cpu) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(cpu, &only);
  ASSERT_EQ(sched_setaffinity(0, sizeof only, &only), 0);
}

// One task for each seat, given to the seat's domain. Each waits for all, so that every thread takes one.
struct Gathering {
  struct Participant {
    pid_t thread = 0;
    bool is_caller = false;
    int task_domain = -1;
    Slot slot;
    int arena_places = 0;
    int arena_index = -1;
    int allowed_cpus = 0;
    int cpu = -1;
  };

  explicit Gathering(const Executor& executor) {
    assignment.domain_begin.push_back(0);
    const std::vector<int> workers = executor.workers_per_domain();
    for (std::size_t d = 0; d < workers.size(); ++d) {
      assignment.domain_begin.push_back(assignment.domain_begin.back() + workers[d]);
      for (int i = 0; i < workers[d]; ++i) {
        assignment.order.push_back(static_cast<int>(participants.size()));
        participants.emplace_back().task_domain = static_cast<int>(d);
      }
    }
  }
  Job job() { return {&assignment, body, this, 64}; }

  static void body(void* context, std::int32_t task, const Slot& slot) noexcept {
    auto& gathering = *static_cast<Gathering*>(context);
    Participant& participant = gathering.participants[static_cast<std::size_t>(task)];
    participant.thread = gettid();
    participant.is_caller = participant.thread == gathering.caller;
    participant.slot = slot;
    participant.arena_places = tbb::this_task_arena::max_concurrency();
    participant.arena_index = tbb::this_task_arena::current_thread_index();
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) == 0) participant.allowed_cpus = CPU_COUNT(&mask);
    participant.cpu = sched_getcpu();
    ++gathering.present;
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (gathering.present < static_cast<int>(gathering.participants.size())) {
      if (std::chrono::steady_clock::now() > give_up) {
        ++gathering.gave_up;
        return;
      }
      std::this_thread::yield();
    }
  }

  const pid_t caller = gettid();
  std::vector<Participant> participants;
  Assignment assignment;
  std::atomic<int> present{0};
  std::atomic<int> gave_up{0};
};

// Sizes differ, so that an arena's size tells which it is.
TEST(Arenas, ADomainsTasksGoToTheWorkersOfItsOwnArena) {
  const std::vector<int> sizes = {4, 3};
  const auto executor = tbb_executor(machine(kTwoDomains), 7);
  ASSERT_EQ(executor->workers_per_domain(), sizes);
  for (int i = 0; i < 200; ++i) {
    Gathering gathering(*executor);
    ASSERT_TRUE(executor->run(gathering.job()));
    ASSERT_EQ(gathering.gave_up, 0);
    for (const Gathering::Participant& participant : gathering.participants) {
      EXPECT_EQ(participant.task_domain, participant.slot.domain);
      if (participant.is_caller) continue;
      EXPECT_EQ(participant.arena_places, sizes[static_cast<std::size_t>(participant.slot.domain)]);
      EXPECT_LT(participant.arena_index, std::max(participant.arena_places, 2));
    }
  }
}

// The only arena needs no place for the worker whose seat the caller takes.
TEST(Arenas, OneDomainHasOnePlaceFewerThanSeats) {
  const auto executor = tbb_executor(machine("core:5 pu:1"), 4);
  Gathering gathering(*executor);
  ASSERT_TRUE(executor->run(gathering.job()));
  ASSERT_EQ(gathering.gave_up, 0);
  for (const Gathering::Participant& participant : gathering.participants)
    EXPECT_TRUE(participant.is_caller || participant.arena_places == 3) << participant.arena_places;
}

TEST(Arenas, ACallerSitsInTheDomainItRunsInAndTakesItsTasks) {
  const Topology host = split_host({1, 1});
  if (host.domains.empty())
    GTEST_SKIP() << "needs two cores, one for the caller and one for a foreign worker";
  const auto executor = tbb_executor(host, 2);
  for (int i = 0; i < 20; ++i) {
    const int home = i % 2;
    std::thread([&] {
      run_on(executor->seats()[static_cast<std::size_t>(home)].os_cpu);
      Gathering gathering(*executor);
      ASSERT_TRUE(executor->run(gathering.job()));
      ASSERT_EQ(gathering.gave_up, 0);
      for (const Gathering::Participant& participant : gathering.participants) {
        EXPECT_EQ(participant.is_caller, participant.slot.domain == home);
        EXPECT_EQ(participant.task_domain, participant.slot.domain);
        EXPECT_EQ(participant.cpu,
                  executor->seats()[static_cast<std::size_t>(participant.slot.index)].os_cpu);
        EXPECT_EQ(participant.allowed_cpus, 1);
      }
    }).join();
  }
}

// Within a domain too: whoever comes for the seat that the caller has takes one that is free, and its core.
TEST(Arenas, NobodyWorksOnTheCallersCore) {
  const Topology host = split_host({2});
  if (host.domains.empty())
    GTEST_SKIP() << "needs two cores, one for the caller and one for a foreign worker";
  const auto executor = tbb_executor(host, 2);
  for (int i = 0; i < 20; ++i) {
    std::thread([&] {
      run_on(executor->seats()[static_cast<std::size_t>(i % 2)].os_cpu);
      Gathering gathering(*executor);
      ASSERT_TRUE(executor->run(gathering.job()));
      ASSERT_EQ(gathering.gave_up, 0);
      for (const Gathering::Participant& participant : gathering.participants) {
        EXPECT_EQ(participant.is_caller, participant.slot.index == i % 2);
        EXPECT_EQ(participant.cpu,
                  executor->seats()[static_cast<std::size_t>(participant.slot.index)].os_cpu);
      }
    }).join();
  }
}

// A worker that is bound to one seat after another still knows the mask that it came with.
TEST(Arenas, AWorkerThatChangedItsSeatGetsItsOwnMaskBack) {
  const Topology host = split_host({2});
  if (host.domains.empty())
    GTEST_SKIP() << "needs two cores, one for the caller and one for a foreign worker";
  cpu_set_t before, after;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  auto executor = tbb_executor(host, 2);
  std::vector<pid_t> workers;
  for (int i = 0; i < 40; ++i) {
    std::thread([&] {
      run_on(executor->seats()[static_cast<std::size_t>(i % 2)].os_cpu);
      Gathering gathering(*executor);
      ASSERT_TRUE(executor->run(gathering.job()));
      ASSERT_EQ(gathering.gave_up, 0);
      for (const Gathering::Participant& participant : gathering.participants) {
        if (!participant.is_caller) workers.push_back(participant.thread);
      }
    }).join();
  }
  executor.reset();
  ASSERT_FALSE(workers.empty());
  for (const pid_t worker : workers) {
    ASSERT_EQ(sched_getaffinity(worker, sizeof after, &after), 0);
    ASSERT_TRUE(CPU_EQUAL(&before, &after));
  }
}

TEST(Arenas, CallersOnEveryDomainAtOnce) {
  const Topology host = split_host({1, 1});
  if (host.domains.empty())
    GTEST_SKIP() << "needs two cores, one for the caller and one for a foreign worker";
  const auto executor = tbb_executor(host, 2);
  Watch watch(*executor);
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      run_on(executor->seats()[static_cast<std::size_t>(c % 2)].os_cpu);
      for (int i = 0; i < 100; ++i) {
        Probe probe(watch, {i % 7, c}, 256);
        if (!executor->run(probe.job) || !probe.each_ran_once()) ++failures;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(failures, 0);
  EXPECT_EQ(watch.faults, 0);
  EXPECT_LE(watch.high_water, 2);
}

struct Threads {
  static void body(void* context, std::int32_t, const Slot&) noexcept {
    auto& threads = *static_cast<Threads*>(context);
    ++threads.ran;
    if (gettid() != threads.caller) ++threads.ran_elsewhere;
    for (int i = 0; i < 10000; ++i) asm volatile("");
  }
  const pid_t caller = gettid();
  std::atomic<int> ran{0};
  std::atomic<int> ran_elsewhere{0};
};

// A limit that comes later is kept as well; oneTBB itself runs what is enqueued by one thread more.
TEST(Arenas, ALimitOfOneThreadLeavesTheJobToItsCaller) {
  const auto executor = tbb_executor(machine(kTwoDomains), 8);
  const Assignment assignment = test::one_task_each(200, 2);
  {
    const tbb::global_control one(tbb::global_control::max_allowed_parallelism, 1);
    for (int i = 0; i < 20; ++i) {
      Threads threads;
      ASSERT_TRUE(executor->run({&assignment, Threads::body, &threads, 64}));
      EXPECT_EQ(threads.ran, 200);
      EXPECT_EQ(threads.ran_elsewhere, 0);
    }
  }
  Gathering gathering(*executor);
  ASSERT_TRUE(executor->run(gathering.job()));
  EXPECT_EQ(gathering.gave_up, 0) << "the limit is gone, and not all came back";
}

// As many threads as seats, the caller among them: oneTBB sends one too many to some domain, who sits down in
// the other. Sizes differ, so that an arena's size tells whose it is.
TEST(Arenas, OneTooManyTakesASeatElsewhere) {
  const std::vector<int> sizes = {3, 2};
  const tbb::global_control five(tbb::global_control::max_allowed_parallelism, 5);
  const auto executor = tbb_executor(machine("numa:2 l3:1 core:3 pu:1"), 5);
  ASSERT_EQ(executor->workers_per_domain(), sizes);
  int elsewhere = 0;
  for (int i = 0; i < 30; ++i) {
    Gathering gathering(*executor);
    ASSERT_TRUE(executor->run(gathering.job()));
    ASSERT_EQ(gathering.gave_up, 0);
    for (const Gathering::Participant& participant : gathering.participants) {
      if (participant.is_caller) continue;
      elsewhere += participant.arena_places != sizes[static_cast<std::size_t>(participant.slot.domain)];
    }
  }
  EXPECT_GT(elsewhere, 0);
}

TEST(Arenas, MadeUnderALimitTheyHaveNoMorePlacesThanItAllows) {
  const tbb::global_control three(tbb::global_control::max_allowed_parallelism, 3);
  testing::internal::CaptureStderr();
  const auto executor = tbb_executor(machine(kTwoDomains), 8);
  Watch watch(*executor);
  for (int i = 0; i < 20; ++i) {
    Probe probe(watch, {20, 20}, 64);
    ASSERT_TRUE(executor->run(probe.job));
    EXPECT_TRUE(probe.each_ran_once());
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "") << "oneTBB warned";
  EXPECT_EQ(watch.faults, 0);
  EXPECT_LE(watch.high_water, 3);
}

}  // namespace
}  // namespace kumiko::scheduler
