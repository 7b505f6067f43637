// SPDX-License-Identifier: Apache-2.0
// Threads that take turns on one processor thread, at every operation on an atomic: each seed is one order of
// their steps, the same on every machine and under any load, and a wake-up that nobody sends is seen the
// moment all of them sleep. Code under test is compiled with this header first (see CMakeLists.txt), so that
// its std::atomic is the one below. What it does not show: orders weaker than sequential consistency, which
// are ThreadSanitizer's part.
#pragma once

// All that the code under test and its tests include, before `atomic` means another thing.
#include <gtest/gtest.h>
#include <sched.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/support/random.h"

namespace kumiko::test {

class Interleaving {
 public:
  explicit Interleaving(std::uint64_t seed) : random_(seed), stay_(random_.pick({1, 3, 10, 40})) {}
  Interleaving(const Interleaving&) = delete;

  void add(std::function<void()> life);
  /// Runs all lives to their end. Else why not; they are then left where they stand.
  std::string run();

  /// For the thread whose turn it is. Outside of run() nobody else is there, and nothing happens.
  static void step() noexcept;
  static void sleep_on(const void* address) noexcept;
  static void wake(const void* address, bool all) noexcept;
  /// How many sleep. A life that asks is not among them.
  static int asleep() noexcept;

 private:
  struct Life {
    std::function<void()> body;
    ucontext_t context;
    const void* sleeps_on = nullptr;
    bool ended = false;
  };
  static void begin();
  void hand_turn_back() noexcept;

  static constexpr int kMostSteps = 1000000;
  static Interleaving* current_;
  Random random_;
  std::int64_t stay_;  // How many steps a turn lasts, on average.
  std::vector<std::unique_ptr<Life>> lives_;
  Life* turn_ = nullptr;
  ucontext_t home_;
  int steps_ = 0;
};

template <class T>
class SteppedAtomic {
 public:
  SteppedAtomic() noexcept : value_() {}
  SteppedAtomic(T value) noexcept : value_(value) {}  // NOLINT: as std::atomic's
  SteppedAtomic(const SteppedAtomic&) = delete;

  using Order = std::memory_order;
  static constexpr Order kOrder = std::memory_order_seq_cst;
  T load(Order = kOrder) const noexcept {
    Interleaving::step();
    return value_;
  }
  void store(T value, Order = kOrder) noexcept { exchange(value); }
  T exchange(T value, Order = kOrder) noexcept {
    Interleaving::step();
    return std::exchange(value_, value);
  }
  T fetch_add(T more, Order = kOrder) noexcept {
    Interleaving::step();
    return std::exchange(value_, value_ + more);
  }
  T fetch_sub(T less, Order = kOrder) noexcept {
    Interleaving::step();
    return std::exchange(value_, value_ - less);
  }
  T fetch_or(T bits, Order = kOrder) noexcept {
    Interleaving::step();
    return std::exchange(value_, value_ | bits);
  }
  T fetch_and(T bits, Order = kOrder) noexcept {
    Interleaving::step();
    return std::exchange(value_, value_ & bits);
  }
  bool compare_exchange_strong(T& expected, T value, Order = kOrder) noexcept {
    Interleaving::step();
    const bool same = value_ == expected;
    (same ? value_ : expected) = same ? value : value_;
    return same;
  }
  bool compare_exchange_weak(T& expected, T value, Order = kOrder) noexcept {
    return compare_exchange_strong(expected, value);
  }
  void wait(T old, Order = kOrder) const noexcept {
    while (load() == old) Interleaving::sleep_on(this);
  }
  void notify_one() noexcept {
    Interleaving::step();
    Interleaving::wake(this, false);
  }
  void notify_all() noexcept {
    Interleaving::step();
    Interleaving::wake(this, true);
  }

 private:
  T value_;
};

}  // namespace kumiko::test

namespace std {
template <class T>
using stepped_atomic = kumiko::test::SteppedAtomic<T>;
}
#define atomic stepped_atomic
