// SPDX-License-Identifier: Apache-2.0
// Callers and workers over one set of slots, shared by all executors.
//
// A caller claims an idle slot and works on its own job. Workers, each tied to one slot, take tasks from all
// posted jobs, oldest first, whenever their slot is idle. A thread runs only while it owns a slot, so there
// are never more running threads than slots, however many callers. A caller that finds others at work leaves
// its job to the workers and sleeps until it is done. Where there are no workers (serial executor), it sleeps
// until another caller hands over its slot: slots go to the oldest sleeper, so that callers who return again
// and again do not starve it.
//
// Workers either stay for the pool's life (work()) or are foreign (claim_seat(), serve()): threads of another
// library, which come when invited and may not come at all. Nothing depends on one: callers do not leave
// their jobs to foreign workers, and a caller alone can finish its job.
//
// A job lives on its caller's stack, so no thread may look at it once the caller has left. `live_` has one
// bit per posted job with tasks left to take. A worker first counts itself into the job slot's `readers` and
// then looks at the bit; the caller first sees the bit cleared and then waits for `readers` to become 0. One
// of the two always sees the other. Every decision about sleeping here is such a pair of "announce, then
// look", so these atomics are sequentially consistent.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "scheduler/slots.h"
#include "scheduler/task_bag.h"

namespace kumiko::scheduler {

class WorkerPool {
 public:
  WorkerPool(const ExecutorOptions& options, const std::vector<Seat>& seats);
  virtual ~WorkerPool() = default;

  bool reserve(std::size_t bytes) noexcept { return slots_.reserve(bytes); }
  /// Executor::run.
  bool run(const Job& job) noexcept;

  /// Runs the worker of slot `seat` until stop(). No thread may call run() after stop(). At most one thread
  /// per seat.
  void work(int seat) noexcept;
  void stop() noexcept;

  /// For a foreign worker: claims `slot` if it is idle and there is work; the worker must then serve() in it.
  bool claim_seat(int slot) noexcept;
  /// Takes tasks of all posted jobs until none is left, and releases the slot. A foreign worker then looks
  /// once more: a caller that was posting its job meanwhile may have found all slots taken and gone to sleep.
  void serve(int slot) noexcept;
  bool has_work() const noexcept { return live_.load() != 0; }
  bool is_idle(int slot) const noexcept { return slots_.is_idle(slot); }

 protected:
  /// There may be work for more threads: wakes some, those near this seat first. Each of them does the same.
  virtual void wake_some(int near_seat) noexcept;

 private:
  static constexpr int kMaxJobSlots = 64;  // Bits of live_. Further callers wait for one.
  static constexpr int kNoSlot = -1;       // As a JobSlot's grant: the caller has no slot and waits for one.
  static constexpr int kNotWaiting = -2;

  struct alignas(kLineBytes) JobSlot {
    std::atomic<TaskBag*> bag{nullptr};
    std::atomic<std::uint64_t> ticket{0};  // Increases in order of posting.
    std::atomic<int> grant{kNotWaiting};   // A slot handed to the caller, already claimed for it.
    alignas(kLineBytes) std::atomic<int> readers{0};
    std::atomic<std::uint32_t> wake_count{0};  // Incremented when the caller should check its state.
  };
  enum WorkerState : int { kAbsent, kAwake, kAsleep };
  struct alignas(kLineBytes) Worker {
    std::atomic<int> state{kAbsent};
  };

  // For callers.
  int take_job_slot() noexcept;
  void publish(int job_slot, TaskBag& bag) noexcept;
  bool is_done(int job_slot) const noexcept;
  int wait_for_slot(int job_slot) noexcept;
  void wait_until_done(int job_slot, int slot) noexcept;
  // For workers.
  void drain_live(int slot) noexcept;
  bool has_work_for(int seat) const noexcept;
  // For both.
  void mark_exhausted(int job_slot) noexcept;
  void release(int slot) noexcept;
  void wake(JobSlot& job_slot) noexcept;
  template <class Accept>
  int oldest_live(Accept accept) const noexcept;
  int oldest_waiting() const noexcept;
  bool wake_worker(int seat) noexcept;

  template <class Predicate>
  bool spin_until(Predicate is_true) const noexcept;

  Slots slots_;
  const std::chrono::microseconds spin_;
  std::vector<Worker> workers_;
  std::unique_ptr<JobSlot[]> job_slots_;
  alignas(kLineBytes) std::atomic<std::uint64_t> live_{0};
  alignas(kLineBytes) std::atomic<std::uint64_t> free_job_slots_{~std::uint64_t{0}};
  std::atomic<std::uint64_t> next_ticket_{0};
  alignas(kLineBytes) std::atomic<int> sleepers_{0};
  std::atomic<int> workers_present_{0};  // Counted from their start on; no call comes after stop().
  std::atomic<int> foreign_workers_{0};  // Foreign workers that hold a seat.
  std::atomic<bool> stopping_{false};
};

}  // namespace kumiko::scheduler
