// oneTBB's threads in an arena of their own: shares the process's TBB workers with everything else that uses
// TBB. A caller enters the arena and spawns a helper task per further thread; beyond concurrency() the arena
// keeps callers waiting.
#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/task_arena.h>
#include <oneapi/tbb/task_group.h>
#include <oneapi/tbb/task_scheduler_observer.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

#include "scheduler/crew.h"
#include "scheduler/executors.h"
#include "scheduler/fork.h"
#include "scheduler/visit.h"

namespace kumiko::scheduler {
namespace {

// Binds TBB's workers to the seat of the arena slot they take, and gives them their own mask back when they
// leave: the next arena they work for may be anybody's. Threads of the program that enter as callers are left
// alone.
class Binder final : public tbb::task_scheduler_observer {
 public:
  Binder(tbb::task_arena& arena, const std::vector<Seat>& seats)
      : tbb::task_scheduler_observer(arena), seats_(seats), bound_(seats.size()) {
    observe(true);
  }
  // Workers still in the arena are not announced to an observer that has stopped, so their masks are given
  // back from here.
  ~Binder() override {
    observe(false);
    for (Bound& bound : bound_) restore(bound);
  }

  void on_scheduler_entry(bool is_worker) override {
    const int slot = tbb::this_task_arena::current_thread_index();
    if (!is_worker || slot < 0 || slot >= static_cast<int>(bound_.size())) return;
    Bound& bound = bound_[slot];
    cpu_set_t mask;
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) return;
    bound.mask = mask;
    bound.thread.store(gettid());
    bind_this_thread(seats_[slot].os_cpu);
  }
  void on_scheduler_exit(bool is_worker) override {
    const int slot = tbb::this_task_arena::current_thread_index();
    if (!is_worker || slot < 0 || slot >= static_cast<int>(bound_.size())) return;
    restore(bound_[slot]);
  }

 private:
  struct Bound {
    std::atomic<pid_t> thread{0};  // 0: nobody
    cpu_set_t mask;
  };
  static void restore(Bound& bound) {
    if (const pid_t thread = bound.thread.exchange(0))
      sched_setaffinity(thread, sizeof(bound.mask), &bound.mask);
  }

  const std::vector<Seat>& seats_;
  std::vector<Bound> bound_;
};

// An arena of more threads than TBB may have makes it print a warning.
int allowed_parallelism() {
  const std::size_t allowed = tbb::global_control::active_value(tbb::global_control::max_allowed_parallelism);
  return static_cast<int>(std::clamp<std::size_t>(allowed, 1, 1 << 16));
}

class TbbExecutor final : public Executor {
 public:
  explicit TbbExecutor(const ExecutorOptions& options)
      : Executor(options.topology, seat_workers(options.topology, options.num_threads, options.bind)),
        slots_(options.topology, seats_),
        arena_(std::min(concurrency(), allowed_parallelism())) {
    // An arena of one thread still has two slots (oneTBB 2021.8) and lets two callers in. It would have no
    // workers anyway.
    if (arena_.max_concurrency() == 1) {
      alone_ = std::make_unique<Crew>(options, seats_);
      return;
    }
    arena_.initialize();
    if (options.bind != Bind::none && options.topology.is_host)
      binder_ = std::make_unique<Binder>(arena_, seats_);
  }

  const char* name() const override { return "tbb"; }
  bool reserve(std::size_t bytes) override { return alone_ ? alone_->reserve(bytes) : slots_.reserve(bytes); }

  bool run(const Job& job) override {
    if (alone_) return alone_->run(job);
    TaskBag bag(job);
    if (bag.num_tasks() == 0) return true;
    if (!slots_.reserve(job.scratch_bytes)) return false;
    open_bag();
    const auto visit = [&] { visit_bag(bag, slots_, tbb::this_task_arena::current_thread_index()); };
    const int helpers = std::min(arena_.max_concurrency(), static_cast<int>(bag.num_tasks())) - 1;
    arena_.execute([&] {
      // Isolated, so that a caller who waits for its last tasks does not start on another caller's job.
      tbb::this_task_arena::isolate([&] {
        tbb::task_group group;
        try {
          for (int i = 0; i < helpers; ++i) group.run(visit);
        } catch (...) {
          // No memory for another helper: the tasks are done by fewer.
        }
        visit();
        group.wait();
      });
    });
    close_bag();
    return true;
  }

 private:
  Slots slots_;
  tbb::task_arena arena_;
  std::unique_ptr<Binder> binder_;
  std::unique_ptr<Crew> alone_;
};

}  // namespace

std::unique_ptr<Executor> create_tbb_executor(const ExecutorOptions& options, std::string& error) {
  // oneTBB's threads belong to the process that first used them here. A forked child has its bookkeeping and
  // none of the threads.
  static const unsigned first_use = fork_generation();
  if (fork_generation() != first_use) {
    error =
        "oneTBB was in use when this process was forked, and its threads are not here; expected openmp or "
        "serial";
    return nullptr;
  }
  return std::make_unique<TbbExecutor>(options);
}

}  // namespace kumiko::scheduler
