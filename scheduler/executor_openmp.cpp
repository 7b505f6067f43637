// SPDX-License-Identifier: Apache-2.0
// One OpenMP team for the life of the executor: a service thread opens a single parallel region in which each
// thread is the worker of one slot. A region per call would cost its fork and join (1.5 us for 12 threads,
// libgomp on A64FX) and, with many server threads as callers, a team for each of them. n threads have n
// workers although callers work too: the worker of a slot that a caller takes sleeps, and every slot has a
// worker when no caller uses it.
#include <omp.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

#include "scheduler/executors.h"
#include "scheduler/fork.h"
#include "scheduler/signals.h"
#include "scheduler/worker_pool.h"

namespace kumiko::scheduler {
namespace {

class OpenMpExecutor;

// The executor whose team is starting. The team's threads find it here, not among the region's shared
// variables: ThreadSanitizer cannot see how libgomp hands those over. One team starts at a time.
std::atomic<OpenMpExecutor*> g_starting{nullptr};

// libgomp ends the process when it cannot create a thread, so pthread_create tries first.
void require_threads(int count) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  std::vector<std::thread> probes;
  probes.reserve(static_cast<std::size_t>(count));
  const auto join_all = [&] {
    {
      const std::lock_guard lock(mutex);
      done = true;
    }
    changed.notify_all();
    for (std::thread& probe : probes) probe.join();
  };
  try {
    for (int i = 0; i < count; ++i) {
      probes.emplace_back([&] {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return done; });
      });
    }
  } catch (...) {  // system_error, or bad_alloc for a thread's state: no joinable thread may be left behind
    join_all();
    throw;
  }
  join_all();
}

class OpenMpExecutor final : public Executor {
 public:
  explicit OpenMpExecutor(const ExecutorOptions& options)
      : Executor(options.topology, seat_workers(options.topology, options.num_threads, options.bind)),
        is_bound_(options.bind != Bind::none && options.topology.is_host),
        pool_(options, seats_) {
    if (concurrency() == 1) return;
    require_threads(concurrency());
    const std::lock_guard lock(mutex_of(ProcessLock::openmp_start));
    g_starting.store(this, std::memory_order_release);
    service_ = std::thread([this] { open_team(concurrency()); });
    for (int here = arrived_.load(); here == 0 || here < team_size_.load(); here = arrived_.load())
      arrived_.wait(here);
  }

  ~OpenMpExecutor() override {
    if (!service_.joinable()) return;
    pool_.stop();
    service_.join();
    // The region has ended, so all have left; reading the count shows that to ThreadSanitizer too.
    while (left_.load(std::memory_order_acquire) < team_size_.load()) std::this_thread::yield();
  }

  const char* name() const override { return "openmp"; }
  bool reserve(std::size_t bytes) override { return pool_.reserve(bytes); }
  bool run(const Job& job) override { return pool_.run(job); }

 private:
  static void open_team(int size) {
    leave_signals_to_the_program();
    omp_set_dynamic(0);
    // OMP_THREAD_LIMIT may still allow fewer threads: then the last slots have no worker, and only callers
    // use them.
#pragma omp parallel num_threads(size) default(none) shared(g_starting)
    g_starting.load(std::memory_order_acquire)->serve(omp_get_thread_num(), omp_get_num_threads());
  }

  void serve(int seat, int team_size) {
    if (is_bound_) bind_this_thread(seats_[seat].os_cpu);
    team_size_.store(team_size);
    arrived_.fetch_add(1);
    arrived_.notify_all();
    pool_.work(seat);
    left_.fetch_add(1, std::memory_order_release);
  }

  const bool is_bound_;
  WorkerPool pool_;
  std::atomic<int> team_size_{0};
  std::atomic<int> arrived_{0};
  std::atomic<int> left_{0};
  std::thread service_;
};

}  // namespace

std::unique_ptr<Executor> create_openmp_executor(const ExecutorOptions& options, std::string&) {
  return std::make_unique<OpenMpExecutor>(options);
}

}  // namespace kumiko::scheduler
