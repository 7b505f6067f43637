// SPDX-License-Identifier: Apache-2.0
// What the tests of executors run: jobs that watch over the promises of scheduler/executor.h from inside.
#pragma once

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "scheduler/executor.h"
#include "tests/scheduler/machines.h"

namespace kumiko::test {

using scheduler::Assignment;
using scheduler::Bind;
using scheduler::Executor;
using scheduler::Job;
using scheduler::Slot;
using scheduler::Topology;

inline constexpr char kTwoDomains[] = "numa:2 l3:1 core:4 pu:1";

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
    auto executor = scheduler::find_executor(GetParam())->create({topology, num_threads, bind}, error);
    EXPECT_NE(executor, nullptr) << error;
    return executor;
  }

  static void expect_clean(const Watch& watch) {
    EXPECT_EQ(watch.faults.load(), 0) << "slot shared, wrong domain, or scratch too small or shared";
    EXPECT_LE(watch.high_water.load(), static_cast<int>(watch.owner.size()))
        << "more threads running than allowed";
  }
};

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
  std::atomic<int> blocks_faults{0};
  cpu_set_t callers_mask = own_mask();

  static cpu_set_t own_mask() {
    cpu_set_t mask;
    CPU_ZERO(&mask);
    sched_getaffinity(0, sizeof mask, &mask);
    return mask;
  }

  static void body(void* context, std::int32_t, const Slot& slot) noexcept {
    auto& meeting = *static_cast<Meeting*>(context);
    if (gettid() != meeting.caller) {
      const cpu_set_t mask = own_mask();
      const int cpu = meeting.executor->seats()[slot.index].os_cpu;
      const bool is_right = meeting.is_bound ? CPU_COUNT(&mask) == 1 && CPU_ISSET(cpu, &mask)
                                             : CPU_EQUAL(&mask, &meeting.callers_mask);
      if (!is_right) ++meeting.wrong_mask;
      sigset_t blocked;
      pthread_sigmask(SIG_BLOCK, nullptr, &blocked);
      if (!sigismember(&blocked, SIGTERM)) ++meeting.takes_signals;
      for (const int kept : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF})
        meeting.blocks_faults += sigismember(&blocked, kept);
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

/// A job of one task for each thread, all of them the first domain's.
inline Assignment one_task_each(int threads, std::size_t domains) {
  Assignment assignment;
  assignment.domain_begin.assign(domains + 1, threads);
  assignment.domain_begin[0] = 0;
  assignment.order.resize(static_cast<std::size_t>(threads));
  std::iota(assignment.order.begin(), assignment.order.end(), 0);
  return assignment;
}

}  // namespace kumiko::test
