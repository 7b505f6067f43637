// SPDX-License-Identifier: Apache-2.0
// One limit on the bytes of requests and answers of all connections together.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace inference {

class MemoryBudget {
 public:
  explicit MemoryBudget(std::int64_t bytes) : capacity_(bytes) {}

  /// A share of the budget, returned when it is destroyed. For one thread at a time.
  class Lease {
   public:
    Lease() = default;
    explicit Lease(MemoryBudget& budget) : budget_(&budget) {}
    Lease(Lease&& other) noexcept { *this = std::move(other); }
    Lease& operator=(Lease&& other) noexcept {
      std::swap(budget_, other.budget_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Lease() {
      if (budget_ != nullptr) budget_->used_ -= bytes_;
    }

    /// Holds `bytes` instead of its previous amount. False, with nothing changed, if the budget has no room.
    [[nodiscard]] bool resize(std::int64_t bytes) {
      const std::int64_t more = bytes - bytes_;
      if (budget_->used_.fetch_add(more) + more > budget_->capacity_ && more > 0) {
        budget_->used_ -= more;
        return false;
      }
      bytes_ = bytes;
      return true;
    }

    /// The most it may hold while no other lease holds anything.
    std::int64_t most() const { return budget_->capacity_; }

   private:
    MemoryBudget* budget_ = nullptr;
    std::int64_t bytes_ = 0;
  };

  std::int64_t used() const { return used_; }
  std::int64_t capacity() const { return capacity_; }

 private:
  const std::int64_t capacity_;
  std::atomic<std::int64_t> used_{0};
};

}  // namespace inference
