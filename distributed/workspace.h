// SPDX-License-Identifier: Apache-2.0
// What a communicator keeps from call to call: memory that has been touched before, and the thread that
// computes. 64 MB of new pages for two blocks took 5 % of a prefill of 8192 tokens on two ranks (Zen 5).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>

#include "distributed/worker.h"

namespace kumiko::distributed {

/// Memory aligned to 64 bytes. It keeps its content until it grows, and never shrinks.
class Buffer {
 public:
  std::byte* reserve(std::size_t bytes) {
    if (bytes + 64 > size_) {
      memory_.reset();
      size_ = 0;
      memory_ = std::make_unique_for_overwrite<std::byte[]>(bytes + 64);
      size_ = bytes + 64;
    }
    const auto at = reinterpret_cast<std::uintptr_t>(memory_.get());
    return memory_.get() + (64 - at % 64) % 64;
  }

 private:
  std::unique_ptr<std::byte[]> memory_;
  std::size_t size_ = 0;
};

struct Workspace {
  std::shared_ptr<Buffer> blocks = std::make_shared<Buffer>();  ///< Shared with transfers that never end.
  Buffer states;
  std::optional<Worker> worker;
};

}  // namespace kumiko::distributed
