// SPDX-License-Identifier: Apache-2.0
#include "scheduler/slots.h"

#include <sched.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace kumiko::scheduler {

Slots::Slots(const Topology& topology, const std::vector<Seat>& seats) : entries_(seats.size()) {
  for (const Domain& domain : topology.domains)
    node_of_domain_.push_back(topology.is_host ? domain.numa_node : -1);
  std::vector<int> first_in(topology.domains.size(), -1);
  for (std::size_t i = seats.size(); i-- > 0;) {
    entries_[i].slot.index = static_cast<int>(i);
    entries_[i].slot.domain = seats[i].domain;
    first_in[static_cast<std::size_t>(seats[i].domain)] = static_cast<int>(i);
  }
  if (!topology.is_host) return;
  const auto slot_of = [this](int cpu) -> int& {
    const auto at = static_cast<std::size_t>(cpu);
    if (slot_of_cpu_.size() <= at) slot_of_cpu_.resize(at + 1, -1);
    return slot_of_cpu_[at];
  };
  for (std::size_t i = 0; i < seats.size(); ++i) slot_of(seats[i].os_cpu) = static_cast<int>(i);
  // A seat is on one hardware thread of a core, and there may be fewer seats than cores.
  for (std::size_t d = 0; d < topology.domains.size(); ++d) {
    for (const Core& core : topology.domains[d].cores) {
      const int seat = slot_of(core.os_cpu), slot = seat < 0 ? first_in[d] : seat;
      slot_of(core.os_cpu) = slot;
      for (const int cpu : core.others) slot_of(cpu) = slot;
    }
  }
}

bool Slots::reserve(std::size_t bytes) noexcept {
  if (reserved_.load(std::memory_order_acquire) >= bytes) return true;
  const std::lock_guard lock(reserve_mutex_);
  if (reserved_.load(std::memory_order_relaxed) >= bytes) return true;
  try {
    if (!reserve_all(bytes)) return false;
  } catch (const std::bad_alloc&) {
    return false;
  }
  reserved_.store(bytes, std::memory_order_release);
  return true;
}

// One arena per domain, cut at base pages: a huge page shared by several slots is on the right node whichever
// of them touches it first, and twelve slots of 300 KiB fill one, where a single slot would not.
bool Slots::reserve_all(std::size_t bytes) {
  const std::size_t stride = round_to_pages(bytes);
  if (stride == 0 || stride > PTRDIFF_MAX / entries_.size()) return false;
  std::vector<std::size_t> slots_in(node_of_domain_.size(), 0);
  for (const Entry& entry : entries_) ++slots_in[static_cast<std::size_t>(entry.slot.domain)];
  // Allocate all of them before any takes effect, so that a failure changes nothing.
  std::vector<std::shared_ptr<const Arena>> arenas(node_of_domain_.size());
  for (std::size_t d = 0; d < arenas.size(); ++d) {
    if (slots_in[d] == 0) continue;
    arenas[d] = std::make_shared<const Arena>(Arena::allocate(slots_in[d] * stride, node_of_domain_[d]));
    if (arenas[d]->data() == nullptr) return false;
  }
  for (std::size_t i = entries_.size(); i-- > 0;) {
    Entry& entry = entries_[i];
    const auto d = static_cast<std::size_t>(entry.slot.domain);
    const std::lock_guard swap(entry.mutex);
    entry.pending = {arenas[d], arenas[d]->data() + --slots_in[d] * stride};
    entry.has_pending.store(true, std::memory_order_release);
  }
  return true;
}

bool Slots::try_claim(int slot) noexcept {
  std::atomic<bool>& owned = entries_[slot].owned;
  return !owned.load() && !owned.exchange(true);
}

bool Slots::any_idle() const noexcept {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entry& entry) { return !entry.owned.load(); });
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
    Scratch old;  // Unmapped after the lock is released, by the last slot of its domain.
    const std::lock_guard lock(entry.mutex);
    old = std::move(entry.scratch);
    entry.scratch = std::move(entry.pending);
    entry.has_pending.store(false, std::memory_order_relaxed);
    entry.slot.scratch = entry.scratch.data;
  }
  return entry.slot;
}

}  // namespace kumiko::scheduler
