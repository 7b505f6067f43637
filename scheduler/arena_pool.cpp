// SPDX-License-Identifier: Apache-2.0
#include "scheduler/arena_pool.h"

#include <algorithm>
#include <utility>

namespace kumiko::scheduler {

ArenaPool::ArenaPool(int numa_node) : numa_node_(numa_node) {
  idle_.reserve(kKept);
}

Arena ArenaPool::take(std::size_t bytes) noexcept {
  {
    const std::lock_guard lock(mutex_);
    auto best = idle_.end();
    for (auto arena = idle_.begin(); arena != idle_.end(); ++arena) {
      if (arena->size() >= bytes && (best == idle_.end() || arena->size() < best->size())) best = arena;
    }
    if (best != idle_.end()) {
      Arena found = std::move(*best);
      idle_.erase(best);
      return found;
    }
  }
  return Arena::allocate(bytes, numa_node_);
}

void ArenaPool::give(Arena arena) noexcept {
  const std::lock_guard lock(mutex_);
  if (arena.data() == nullptr) return;
  if (idle_.size() < kKept) {
    idle_.push_back(std::move(arena));
    return;
  }
  // Keep the larger arena: it serves more requests.
  const auto smallest = std::min_element(idle_.begin(), idle_.end(),
                                         [](const Arena& a, const Arena& b) { return a.size() < b.size(); });
  if (smallest->size() < arena.size()) std::swap(*smallest, arena);
}

}  // namespace kumiko::scheduler
