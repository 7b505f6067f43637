// SPDX-License-Identifier: Apache-2.0
// One job while it runs: hands out its tasks, each once, to any number of threads. Lives on the caller's
// stack.
#pragma once

#include <atomic>
#include <cstdint>

#include "scheduler/executor.h"

namespace kumiko::scheduler {

// Data that two cores may write at the same time must be this far apart: A64FX has lines of 256 bytes;
// elsewhere they have 64 bytes and are fetched in pairs.
#if defined(__aarch64__)
inline constexpr std::size_t kLineBytes = 256;
#else
inline constexpr std::size_t kLineBytes = 128;
#endif

class TaskBag {
 public:
  explicit TaskBag(const Job& job) noexcept;
  TaskBag(const TaskBag&) = delete;

  /// Takes and runs tasks until none is left: the slot's own domain first, then the others in order.
  void drain(const Slot& slot) noexcept;

  std::int32_t num_tasks() const noexcept;

 private:
  struct alignas(kLineBytes) Cursor {
    std::atomic<std::int32_t> next{0};
    std::int32_t end = 0;
  };
  // With more domains than this, neighbours share cursors: that costs some locality on machines that do not
  // exist yet, and saves an allocation on all others.
  static constexpr int kMaxCursors = 32;

  const Job& job_;
  int num_domains_;
  int num_cursors_;
  Cursor cursors_[kMaxCursors];
};

}  // namespace kumiko::scheduler
