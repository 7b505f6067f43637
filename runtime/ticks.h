// SPDX-License-Identifier: Apache-2.0
// The processor's time-stamp counter: a few nanoseconds to read; the system clock takes 25 to 35 (Zen 5,
// virtual machine).
#pragma once

#include <chrono>
#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace kumiko {

/// Ticks of the same rate on all cores, and their conversion to nanoseconds since the clock was made. Without
/// such a counter, ticks are those of the steady clock.
class TickClock {
 public:
  TickClock() noexcept : counts_(has_counter()), first_(read()), first_ns_(steady_ns()) {}

  std::int64_t read() const noexcept {
#if defined(__x86_64__)
    if (counts_) return static_cast<std::int64_t>(__builtin_ia32_rdtsc());
#elif defined(__aarch64__)
    if (counts_) {
      std::int64_t ticks;
      asm volatile("mrs %0, cntvct_el0" : "=r"(ticks));
      return ticks;
    }
#endif
    return steady_ns();
  }

  /// Converts ticks to nanoseconds by the time that has passed on both clocks so far.
  class Scale {
   public:
    explicit Scale(const TickClock& clock) noexcept : first_(clock.first_) {
      const std::int64_t ticks = clock.read() - clock.first_, ns = steady_ns() - clock.first_ns_;
      ns_per_tick_ = ticks > 0 && ns > 0 ? static_cast<double>(ns) / static_cast<double>(ticks) : 1.0;
    }
    std::int64_t ns(std::int64_t ticks) const noexcept {
      return static_cast<std::int64_t>(static_cast<double>(ticks - first_) * ns_per_tick_);
    }

   private:
    std::int64_t first_;
    double ns_per_tick_;
  };

  std::int64_t first() const noexcept {
    return first_;
  }

 private:
  static std::int64_t steady_ns() noexcept {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
               std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  static bool has_counter() noexcept {
#if defined(__x86_64__)
    // Invariant TSC: CPUID 80000007h, EDX bit 8 (Intel SDM, volume 2; AMD APM, volume 3).
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d >> 8 & 1) != 0;
#elif defined(__aarch64__)
    return true;  // the architecture's generic timer
#else
    return false;
#endif
  }

  bool counts_;
  std::int64_t first_, first_ns_;
};

}  // namespace kumiko
