// SPDX-License-Identifier: Apache-2.0
#include "scheduler/worker_pool.h"

#include <algorithm>
#include <bit>
#include <chrono>

namespace kumiko::scheduler {
namespace {

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

constexpr std::uint64_t bit(int job_slot) {
  return std::uint64_t{1} << job_slot;
}

}  // namespace

WorkerPool::WorkerPool(const ExecutorOptions& options, const std::vector<Seat>& seats)
    : slots_(options.topology, seats),
      spin_(options.spin),
      workers_(seats.size()),
      job_slots_(new JobSlot[kMaxJobSlots]) {}

template <class Predicate>
bool WorkerPool::spin_until(Predicate is_true) const noexcept {
  if (spin_.count() == 0) return is_true();
  const auto deadline = std::chrono::steady_clock::now() + spin_;
  do {
    for (int i = 0; i < 16; ++i) {
      if (is_true()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

bool WorkerPool::run(const Job& job) noexcept {
  TaskBag bag(job);
  if (bag.num_tasks() == 0) return true;
  if (!slots_.reserve(job.scratch_bytes)) return false;
  // The job slot first: a caller asleep waiting for one must not hold a seat that a posted job needs.
  const int job_slot = take_job_slot();
  // When several calls run, callers leave the work to the workers, each bound to its core: the kernel often
  // puts two callers with slots of their own on one core while another idles (8 callers on 2 cores kept them
  // 74 % busy, and 97 % this way).
  const bool crowded = live_.load() != 0 && workers_present_.load() > 0;
  int slot = crowded ? kNoSlot : slots_.try_claim_nearest();
  publish(job_slot, bag);
  if (bag.num_tasks() > 1 || slot == kNoSlot) wake_some(slot == kNoSlot ? 0 : slot);
  if (slot == kNoSlot && !crowded) slot = wait_for_slot(job_slot);
  if (slot != kNoSlot) {
    bag.drain(slots_.prepare(slot));
    mark_exhausted(job_slot);
  }
  wait_until_done(job_slot, slot);
  free_job_slots_.fetch_or(bit(job_slot));
  free_job_slots_.notify_one();
  return true;
}

template <class Accept>
int WorkerPool::oldest_live(Accept accept) const noexcept {
  int oldest = -1;
  std::uint64_t oldest_ticket = 0;
  for (std::uint64_t left = live_.load(); left != 0; left &= left - 1) {
    const int job_slot = std::countr_zero(left);
    const std::uint64_t ticket = job_slots_[job_slot].ticket.load(std::memory_order_relaxed);
    if (!accept(job_slots_[job_slot]) || (oldest >= 0 && ticket >= oldest_ticket)) continue;
    oldest = job_slot;
    oldest_ticket = ticket;
  }
  return oldest;
}

int WorkerPool::oldest_waiting() const noexcept {
  return oldest_live([](const JobSlot& job_slot) { return job_slot.grant.load() == kNoSlot; });
}

int WorkerPool::take_job_slot() noexcept {
  for (;;) {
    std::uint64_t free = free_job_slots_.load();
    while (free != 0) {
      const int job_slot = std::countr_zero(free);
      if (free_job_slots_.compare_exchange_weak(free, free & ~bit(job_slot))) return job_slot;
    }
    free_job_slots_.wait(0);
  }
}

void WorkerPool::publish(int job_slot, TaskBag& bag) noexcept {
  job_slots_[job_slot].bag.store(&bag, std::memory_order_relaxed);
  job_slots_[job_slot].ticket.store(next_ticket_.fetch_add(1, std::memory_order_relaxed),
                                    std::memory_order_relaxed);
  live_.fetch_or(bit(job_slot));
}

bool WorkerPool::is_done(int job_slot) const noexcept {
  return (live_.load() & bit(job_slot)) == 0 && job_slots_[job_slot].readers.load() == 0;
}

// Returns a slot claimed for this caller, or kNoSlot once no task is left to take.
int WorkerPool::wait_for_slot(int job_slot) noexcept {
  JobSlot& mine = job_slots_[job_slot];
  int slot = kNoSlot;
  mine.grant.store(kNoSlot);
  for (;;) {
    const std::uint32_t seen = mine.wake_count.load();
    if (mine.grant.load() != kNoSlot || (live_.load() & bit(job_slot)) == 0) break;
    slot = slots_.try_claim_nearest();
    if (slot != kNoSlot) break;
    mine.wake_count.wait(seen);
  }
  const int granted = mine.grant.exchange(kNotWaiting);
  if (slot == kNoSlot) {
    slot = granted;
  } else if (granted != kNoSlot) {
    release(granted);
  }
  // This caller may have been woken for several slots, or for one it no longer needs: wake the next waiting
  // caller, or workers.
  if (live_.load() != 0 && slots_.any_idle()) {
    const int next = oldest_waiting();
    if (next >= 0) {
      wake(job_slots_[next]);
    } else {
      wake_some(std::max(slot, 0));
    }
  }
  return slot;
}

void WorkerPool::wait_until_done(int job_slot, int slot) noexcept {
  JobSlot& mine = job_slots_[job_slot];
  if (slot != kNoSlot) {
    // While it spins for other threads' last tasks the caller keeps its slot, unless there is other work for
    // it: the slot's worker would only run beside the caller.
    spin_until([&] { return is_done(job_slot) || live_.load() != 0; });
    release(slot);
  }
  for (;;) {
    const std::uint32_t seen = mine.wake_count.load();
    if (is_done(job_slot)) return;
    mine.wake_count.wait(seen);
  }
}

void WorkerPool::work(int seat) noexcept {
  std::atomic<int>& state = workers_[seat].state;
  state.store(kAwake);
  workers_present_.fetch_add(1);
  while (!stopping_.load()) {
    if (has_work_for(seat) && slots_.try_claim(seat)) {
      wake_some(seat);
      drain_live(seat);
      slots_.release(seat);
      continue;
    }
    // A worker whose slot a caller has taken sleeps at once, so that it does not run beside the caller.
    if (slots_.is_idle(seat)) {
      const auto look_up = [&] { return live_.load() != 0 || stopping_.load() || !slots_.is_idle(seat); };
      if (spin_until(look_up)) {
        if (slots_.is_idle(seat)) continue;
      }
    }
    state.store(kAsleep);
    sleepers_.fetch_add(1);
    if (!has_work_for(seat) && !stopping_.load()) state.wait(kAsleep);
    sleepers_.fetch_sub(1);
    state.store(kAwake);
  }
}

bool WorkerPool::has_work_for(int seat) const noexcept {
  return live_.load() != 0 && slots_.is_idle(seat);
}

bool WorkerPool::claim_seat(int slot) noexcept {
  return has_work() && slots_.try_claim(slot);
}

void WorkerPool::serve(int slot) noexcept {
  foreign_workers_.fetch_add(1);
  drain_live(slot);
  foreign_workers_.fetch_sub(1);
  slots_.release(slot);
}

void WorkerPool::drain_live(int slot) noexcept {
  const auto any = [](const JobSlot&) { return true; };
  for (int job_slot = oldest_live(any); job_slot >= 0; job_slot = oldest_live(any)) {
    JobSlot& theirs = job_slots_[job_slot];
    theirs.readers.fetch_add(1);
    if ((live_.load() & bit(job_slot)) != 0) {
      theirs.bag.load(std::memory_order_relaxed)->drain(slots_.prepare(slot));
      mark_exhausted(job_slot);
    }
    // From here on the job may be gone; the job slot remains.
    if (theirs.readers.fetch_sub(1) == 1) wake(theirs);
  }
}

void WorkerPool::mark_exhausted(int job_slot) noexcept {
  if ((live_.load() & bit(job_slot)) != 0) live_.fetch_and(~bit(job_slot));
}

// A caller gives up its slot: to the oldest caller without one, else to the slot's worker if there is work.
// Where foreign workers keep the oldest job from starving, the oldest caller is only woken, and the first
// thread to claim the slot gets it, as it would be idle until the sleeper is awake (8 callers with jobs of 10
// us on 2 cores: 56,000 calls a second, and 70,000 this way).
void WorkerPool::release(int slot) noexcept {
  do {
    for (int job_slot = oldest_waiting(); job_slot >= 0; job_slot = oldest_waiting()) {
      if (foreign_workers_.load() > 0) {
        slots_.release(slot);
        wake(job_slots_[job_slot]);
        // A caller that still waits takes the slot or wakes the next. One that left before the slot was free
        // does neither.
        if (job_slots_[job_slot].grant.load() == kNoSlot || !slots_.try_claim(slot)) return;
        continue;
      }
      int none = kNoSlot;
      if (!job_slots_[job_slot].grant.compare_exchange_strong(none, slot)) continue;
      wake(job_slots_[job_slot]);
      return;
    }
    slots_.release(slot);
    if (live_.load() == 0) return;
    if (workers_[slot].state.load() != kAbsent) {
      wake_worker(slot);
      return;
    }
    // Without a worker, a caller who began to wait between the check above and the release would sleep on.
  } while (oldest_waiting() >= 0 && slots_.try_claim(slot));
  wake_some(slot);
}

void WorkerPool::wake(JobSlot& job_slot) noexcept {
  job_slot.wake_count.fetch_add(1);
  job_slot.wake_count.notify_all();
}

bool WorkerPool::wake_worker(int seat) noexcept {
  int asleep = kAsleep;
  if (!workers_[seat].state.compare_exchange_strong(asleep, kAwake)) return false;
  workers_[seat].state.notify_one();
  return true;
}

// Wakes two threads, and each of them wakes two more: a whole machine is awake after log2(n) wake-ups, and a
// job that is finished sooner wakes fewer.
void WorkerPool::wake_some(int near_seat) noexcept {
  if (sleepers_.load() == 0) return;
  const int n = slots_.size();
  int woken = 0;
  for (int i = 1, seat = near_seat; i <= n && woken < 2; ++i) {
    seat = seat + 1 == n ? 0 : seat + 1;
    if (workers_[seat].state.load() == kAsleep && has_work_for(seat) && wake_worker(seat)) ++woken;
  }
}

void WorkerPool::stop() noexcept {
  stopping_.store(true);
  for (int seat = 0; seat < slots_.size(); ++seat) wake_worker(seat);
}

}  // namespace kumiko::scheduler
