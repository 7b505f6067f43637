// SPDX-License-Identifier: Apache-2.0
// Which tasks of a merge have stored their states, and which thread merges them. States must be merged in the
// order of their splits. A task that ends records that. If no other thread is merging, it then merges the
// states that are next in this order, and goes on as long as there are more. No thread waits.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

namespace kumiko {

/// All of its state is in one word, which is 0 before the first task.
class MergesInOrder {
 public:
  static constexpr std::int32_t kMostTasks = 56;

  explicit MergesInOrder(std::atomic<std::uint64_t>& word) : word_(word) {}

  /// Task `i` of the merge has stored its states. merge(first, last) is called for tasks whose turn it is.
  template <class Merge>
  void end_task(std::int32_t i, Merge merge) noexcept {
    const std::uint64_t own = kStored << i;
    std::uint64_t seen = word_.fetch_or(own, std::memory_order_release) | own;
    if ((seen & kBusy) != 0) return;  // The thread that merges will find it.
    while (stored_after(seen) > 0) {
      // acquire: this thread reads states that others stored, and goes on from what others merged.
      if (word_.compare_exchange_weak(seen, seen | kBusy, std::memory_order_acquire)) return run(seen, merge);
      if ((seen & kBusy) != 0) return;
    }
  }

 private:
  static constexpr std::uint64_t kMerged = 63, kBusy = 64, kStored = 256;

  static std::int32_t merged(std::uint64_t word) { return static_cast<std::int32_t>(word & kMerged); }
  /// The number of tasks that can be merged now.
  static std::int32_t stored_after(std::uint64_t word) {
    return std::countr_one(word / kStored >> merged(word));
  }
  template <class Merge>
  void run(std::uint64_t seen, Merge merge) noexcept {
    for (;;) {
      const std::int32_t first = merged(seen), last = first + stored_after(seen);
      merge(first, last);
      seen |= kBusy;
      for (;;) {
        const std::uint64_t done = (seen & ~kMerged) | static_cast<std::uint64_t>(last);
        const bool has_more = stored_after(done) > 0;
        if (!word_.compare_exchange_weak(seen, has_more ? done : done & ~kBusy, std::memory_order_acq_rel))
          continue;
        if (!has_more) return;
        seen = done;
        break;
      }
    }
  }

  std::atomic<std::uint64_t>& word_;
};

}  // namespace kumiko
