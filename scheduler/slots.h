// SPDX-License-Identifier: Apache-2.0
// Slots and their owners: at most one running thread per slot, and the slot's scratch memory.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "scheduler/executor.h"
#include "scheduler/memory.h"
#include "scheduler/task_bag.h"

namespace kumiko::scheduler {

class Slots {
 public:
  Slots(const Topology& topology, const std::vector<Seat>& seats);

  int size() const { return static_cast<int>(entries_.size()); }

  /// Executor::reserve.
  bool reserve(std::size_t bytes) noexcept;

  /// Ownership. All of it is sequentially consistent: a thread about to sleep announces that and then looks
  /// at the slots once more; a thread that releases a slot then looks for sleepers.
  bool try_claim(int slot) noexcept;
  /// Claims an idle slot: the one of the core that the caller runs on if possible, else one in its domain,
  /// else any. -1: none is idle.
  int try_claim_nearest() noexcept;
  bool is_idle(int slot) const noexcept { return !entries_[slot].owned.load(); }
  bool any_idle() const noexcept;
  void release(int slot) noexcept { entries_[slot].owned.store(false); }

  /// For the owner: the slot with the newest scratch reserved for it. Call it again before each job.
  const Slot& prepare(int slot) noexcept;

 private:
  // A slot's part of its domain's arena, which is freed when the last slot of the domain stops using it.
  struct Scratch {
    std::shared_ptr<const Arena> arena;
    std::byte* data = nullptr;
  };
  struct alignas(kLineBytes) Entry {
    std::atomic<bool> owned{false};
    std::atomic<bool> has_pending{false};
    // Used by the owner only.
    Slot slot;
    Scratch scratch;
    // Used by any thread, under the mutex: scratch for the next owner.
    std::mutex mutex;
    Scratch pending;
  };

  bool reserve_all(std::size_t bytes);

  std::vector<Entry> entries_;
  std::vector<int> node_of_domain_;
  // The slot of the CPU's core, else the first in its domain, else -1. Empty when the topology is not the
  // host's.
  std::vector<int> slot_of_cpu_;
  std::mutex reserve_mutex_;
  std::atomic<std::size_t> reserved_{0};
};

}  // namespace kumiko::scheduler
