// SPDX-License-Identifier: Apache-2.0
// Arenas of one NUMA node that come and go with the runs that use them. Mapping and unmapping one costs a few
// microseconds, the interruption of every core and a page fault a page: what a decode step cannot pay each
// time.
#pragma once

#include <mutex>
#include <vector>

#include "scheduler/memory.h"

namespace kumiko::scheduler {

class ArenaPool {
 public:
  explicit ArenaPool(int numa_node);

  /// At least `bytes`, contents as its last user left them. Empty when memory is short.
  Arena take(std::size_t bytes) noexcept;
  /// Keeps the arena for another, or frees it when enough are kept.
  void give(Arena arena) noexcept;

 private:
  static constexpr std::size_t kKept = 16;
  const int numa_node_;
  std::mutex mutex_;
  std::vector<Arena> idle_;
};

}  // namespace kumiko::scheduler
