// SPDX-License-Identifier: Apache-2.0
// One job while it runs: hands its tasks out, each once, to any number of threads. Lives on the caller's
// stack.
#pragma once

#include <atomic>
#include <cstdint>

#include "scheduler/executor.h"

namespace kumiko::scheduler {

// What two cores may write at the same time must not share this: 256-byte lines on A64FX, elsewhere 64 bytes
// fetched in pairs.
#if defined(__aarch64__)
inline constexpr std::size_t kLineBytes = 256;
#else
inline constexpr std::size_t kLineBytes = 128;
#endif

class TaskBag {
 public:
  explicit TaskBag(const Job& job) noexcept;
  TaskBag(const TaskBag&) = delete;

  /// Takes and runs tasks until none is left to take: the slot's own domain first, then the others in order.
  void drain(const Slot& slot) noexcept;

  std::int32_t num_tasks() const noexcept;

 private:
  struct alignas(kLineBytes) Cursor {
    std::atomic<std::int32_t> next{0};
    std::int32_t end = 0;
  };
  // More domains than this share cursors, neighbours with neighbours: that costs some locality on machines
  // nobody has built, and saves an allocation on every other.
  static constexpr int kMaxCursors = 32;

  const Job& job_;
  int num_domains_;
  int num_cursors_;
  Cursor cursors_[kMaxCursors];
};

}  // namespace kumiko::scheduler
