// SPDX-License-Identifier: Apache-2.0
// One OpenMP team for the life of the executor: a service thread opens a single parallel region in which each
// thread is the worker of one slot. A region per call would cost its fork and join (1.5 us for 12 threads,
// libgomp on A64FX) and, with many server threads as callers, a team for each of them. n threads have n
// workers although callers work too: the worker of a slot that a caller takes sleeps, and every slot has a
// worker when no caller uses it.
#include <omp.h>
#include <pthread.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

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

// What the probe threads of require_threads() wait for.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool is_open = false;

  static void* wait(void* gate) {
    auto& self = *static_cast<Gate*>(gate);
    std::unique_lock lock(self.mutex);
    self.changed.wait(lock, [&] { return self.is_open; });
    return nullptr;
  }
  void open() {
    {
      const std::lock_guard lock(mutex);
      is_open = true;
    }
    changed.notify_all();
  }
};

// libgomp ends the process when it cannot create a thread, so pthread_create tries it first, with stacks of
// the same size (0: the default). Throws std::system_error.
void require_threads(int count, std::size_t stack_bytes) {
  std::vector<pthread_t> probes;
  probes.reserve(static_cast<std::size_t>(count));
  pthread_attr_t attributes;
  int failure = pthread_attr_init(&attributes);
  if (failure != 0) throw std::system_error(failure, std::generic_category());
  // Too small a stack is refused, by libgomp too: then both keep the default.
  if (stack_bytes > 0) pthread_attr_setstacksize(&attributes, stack_bytes);
  Gate gate;
  for (int i = 0; i < count; ++i) {
    pthread_t probe;
    failure = pthread_create(&probe, &attributes, Gate::wait, &gate);
    if (failure != 0) break;
    probes.push_back(probe);
  }
  gate.open();
  for (const pthread_t probe : probes) pthread_join(probe, nullptr);
  pthread_attr_destroy(&attributes);
  if (failure == 0) return;
  const std::error_code why(failure, std::generic_category());
  if (stack_bytes == 0) throw std::system_error(why);
  throw std::system_error(why, "with stacks of " + std::to_string(stack_bytes) + " bytes");
}

class OpenMpExecutor final : public Executor {
 public:
  explicit OpenMpExecutor(const ExecutorOptions& options)
      : Executor(options.topology, seat_workers(options.topology, options.num_threads, options.bind)),
        is_bound_(options.bind != Bind::none && options.topology.is_host),
        pool_(options, seats_) {
    if (concurrency() == 1) return;
    require_threads(concurrency(), options.stack_bytes);
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
    // The program's settings are for its own regions. These hold for this thread only.
    omp_set_dynamic(0);
    if (omp_get_max_active_levels() < 1) omp_set_max_active_levels(1);
    if (omp_get_thread_limit() >= size) return open_region(size);
#pragma omp teams num_teams(1) thread_limit(size)
    open_region(size);
  }

  // OpenMP may still give fewer threads: then the last slots have no worker, and only callers use them.
  static void open_region(int size) {
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
