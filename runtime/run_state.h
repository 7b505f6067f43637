// SPDX-License-Identifier: Apache-2.0
// The memory of a plan's runs: counters of unfinished tasks and the states of split rows. As many are kept as
// runs ever overlapped, so that a run allocates nothing.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "runtime/context.h"
#include "runtime/partition.h"
#include "scheduler/memory.h"

namespace kumiko {

/// Memory of one run in flight.
struct RunState {
  /// [merges] unfinished tasks, or MergesInOrder
  std::unique_ptr<std::atomic<std::uint64_t>[]> pending;
  std::vector<float*> partials;  ///< [domains] the split states that the domain's cores write

 private:
  friend class RunStatePool;
  std::size_t pending_size = 0, heap_size = 0;
  // Memory of the split states: arenas on each domain's node if there are several domains, else the heap.
  std::vector<scheduler::Arena> arenas;
  std::unique_ptr<float[]> heap;
  RunState* next = nullptr;
};

class RunStatePool {
 public:
  explicit RunStatePool(std::shared_ptr<Context::Impl> context) : context_(std::move(context)) {}
  RunStatePool(const RunStatePool&) = delete;
  RunStatePool& operator=(const RunStatePool&) = delete;
  ~RunStatePool() { clear(); }

  /// States made from now on have room for at least `most`, so that fit() allocates only for more.
  void reserve(const PartitionSize& most) { most_ = most; }
  /// A state for a run of `partition`, which must be the one last given to fit(). Throws std::bad_alloc.
  RunState* acquire(const Partition& partition);
  void release(RunState* state) noexcept;
  /// Makes the idle states fit another partition; allocates only for those that are too small. No run may be
  /// in flight. Throws std::bad_alloc; all states are then freed, and the next acquire() makes a new one.
  void fit(const Partition& partition);

 private:
  void fit(const Partition& partition, RunState& state) const;
  void clear() noexcept;

  const std::shared_ptr<Context::Impl> context_;
  std::mutex mutex_;
  RunState* idle_ = nullptr;
  PartitionSize most_;
};

}  // namespace kumiko
