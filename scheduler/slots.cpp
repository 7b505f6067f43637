#include "scheduler/slots.h"

#include <sched.h>

#include <algorithm>
#include <new>

namespace kumiko::scheduler {

Slots::Slots(const Topology& topology, const std::vector<Seat>& seats) : entries_(seats.size()) {
  for (std::size_t i = 0; i < seats.size(); ++i) {
    const Domain& domain = topology.domains[seats[i].domain];
    entries_[i].slot.index = static_cast<int>(i);
    entries_[i].slot.domain = seats[i].domain;
    if (!topology.is_host) continue;
    entries_[i].numa_node = domain.numa_node;
    const auto cpu = static_cast<std::size_t>(seats[i].os_cpu);
    if (slot_of_cpu_.size() <= cpu) slot_of_cpu_.resize(cpu + 1, -1);
    if (slot_of_cpu_[cpu] < 0) slot_of_cpu_[cpu] = static_cast<int>(i);
  }
}

bool Slots::reserve(std::size_t bytes) noexcept {
  if (reserved_.load(std::memory_order_acquire) >= bytes) return true;
  const std::lock_guard lock(reserve_mutex_);
  if (reserved_.load(std::memory_order_relaxed) >= bytes) return true;
  // All of them before any takes effect, so that a failure changes nothing.
  const std::unique_ptr<Arena[]> fresh(new (std::nothrow) Arena[entries_.size()]);
  if (fresh == nullptr) return false;
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    fresh[i] = Arena::allocate(bytes, entries_[i].numa_node);
    if (fresh[i].data() == nullptr) return false;
  }
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const std::lock_guard swap(entries_[i].mutex);
    entries_[i].pending = std::move(fresh[i]);
    entries_[i].has_pending.store(true, std::memory_order_release);
  }
  reserved_.store(bytes, std::memory_order_release);
  return true;
}

bool Slots::try_claim(int slot) noexcept {
  std::atomic<bool>& owned = entries_[slot].owned;
  return !owned.load() && !owned.exchange(true);
}

int Slots::try_claim_nearest() noexcept {
  int home = 0;
  if (!slot_of_cpu_.empty()) {
    const int cpu = sched_getcpu();
    if (cpu >= 0 && cpu < static_cast<int>(slot_of_cpu_.size())) home = std::max(slot_of_cpu_[cpu], 0);
  }
  const int domain = entries_[home].slot.domain;
  const int n = size();
  for (const bool at_home : {true, false}) {
    for (int i = 0, slot = home; i < n; ++i, slot = slot + 1 == n ? 0 : slot + 1) {
      if ((entries_[slot].slot.domain == domain) == at_home && try_claim(slot)) return slot;
    }
  }
  return -1;
}

const Slot& Slots::prepare(int slot) noexcept {
  Entry& entry = entries_[slot];
  if (entry.has_pending.load(std::memory_order_acquire)) {
    Arena old;  // Unmapped after the lock is gone.
    const std::lock_guard lock(entry.mutex);
    old = std::move(entry.scratch);
    entry.scratch = std::move(entry.pending);
    entry.has_pending.store(false, std::memory_order_relaxed);
    entry.slot.scratch = entry.scratch.data();
  }
  return entry.slot;
}

}  // namespace kumiko::scheduler
