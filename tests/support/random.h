// SPDX-License-Identifier: Apache-2.0
// Seeded random numbers, the same on every standard library; those of std distributions differ, so a printed
// seed would not reproduce a failure.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

namespace kumiko::test {

/// splitmix64 (Steele, Lea & Flood, 2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15u);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  /// Uniform in [low, high], both ends included.
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(bits() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool one_in(std::int64_t n) { return between(1, n) == 1; }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[between(0, static_cast<std::int64_t>(values.size()) - 1)];
  }
  template <class T>
  const T& pick(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(between(0, static_cast<std::int64_t>(values.size()) - 1))];
  }
  /// Mean 0, variance 1, bell-shaped within +-3.5: the sum of four 16-bit uniforms, scaled by sqrt(3). A
  /// multiple of 2^-15 before scaling.
  float normal() {
    const std::uint64_t b = bits();
    const std::uint64_t sum = (b & 0xFFFF) + (b >> 16 & 0xFFFF) + (b >> 32 & 0xFFFF) + (b >> 48);
    return static_cast<float>((static_cast<double>(static_cast<std::int64_t>(sum)) - 131072.0) / 65536.0 *
                              1.7320508075688772);
  }

 private:
  std::uint64_t state_;
};

/// The seed of a random sweep: KUMIKO_TEST_SEED if set, else `fallback`. Tests print it on failure.
std::uint64_t test_seed(std::uint64_t fallback);

/// How many random cases a sweep runs: `cases`, or a tenth of it if kThinned.
int sweep_size(int cases);

/// KUMIKO_TEST_THINNED, if it is 0, 1 or 2 and more than `least`; else `least`.
int thinning_asked_for(int least);

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

/// Which cases of long lists a program takes. 0: all. 1: some, where each takes 10 to 100 times as long:
/// under a sanitizer or a user-mode emulator. 2: few, where it takes 100 to 300 times as long: on an emulated
/// processor. Set by KUMIKO_TEST_THINNED at run time, as every emulator of scripts/test does, because an
/// emulated processor of the build's own architecture runs the same programs.
inline const int kThinning = thinning_asked_for(kSanitized ? 1 : 0);
inline const bool kThinned = kThinning > 0;

/// The value for kThinning.
template <class T>
T thinned(T all, T some, T few) {
  return kThinning == 0 ? all : kThinning == 1 ? some : few;
}
/// Under an emulator: fewer repeats show the threads' behaviour as well.
inline const bool kEmulated = kThinned && !kSanitized;

}  // namespace kumiko::test
