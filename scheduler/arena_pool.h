// SPDX-License-Identifier: Apache-2.0
// Arenas of one NUMA node, reused from run to run. Mapping and unmapping one costs a few microseconds, an
// interrupt on every core and a page fault per page: too much for every decode step.
#pragma once

#include <mutex>
#include <vector>

#include "scheduler/memory.h"

namespace kumiko::scheduler {

class ArenaPool {
 public:
  explicit ArenaPool(int numa_node);

  /// An arena of at least `bytes`, with the contents that its last user left. Empty when memory is short.
  Arena take(std::size_t bytes) noexcept;
  /// Keeps the arena for the next run, or frees it when enough are kept.
  void give(Arena arena) noexcept;

 private:
  static constexpr std::size_t kKept = 16;
  const int numa_node_;
  std::mutex mutex_;
  std::vector<Arena> idle_;
};

}  // namespace kumiko::scheduler
