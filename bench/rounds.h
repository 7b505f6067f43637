// SPDX-License-Identifier: Apache-2.0
// The measurement that all benchmarks share: rounds of ceiling, workload, ceiling, and medians over them.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace kumiko::bench {

inline constexpr int kRounds = 5;
inline constexpr int kCallRounds = 3;  // For whole attention calls, ours and the peers': many take a second.
inline constexpr double kWorkWindow = 30e-3;  // Seconds of an attention call's runs in a round.
inline constexpr double kSteady = 1.25;       // If the ceilings around a round differ by a larger factor,
inline constexpr int kHeldAgain = 3;          // the round is repeated, at most this often.

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n == 0 ? 0 : n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/// Mean seconds of a call of `run` over about `window` seconds of back-to-back calls, by `clock()`: now() for
/// the time a user waits; a CPU clock for code of one thread, because it stands still while another process
/// has the core.
template <class Clock, class Run>
double seconds_per_call(double window, Clock clock, Run run) {
  const double begin = clock();
  double end = begin;
  std::int64_t calls = 0, batch = 1;
  do {
    for (std::int64_t i = 0; i < batch; ++i) run();
    calls += batch;
    const double last = end;
    end = clock();
    if (end - last < 100e-6) batch *= 2;  // Reading a clock costs up to 0.5 us.
  } while (end - begin < window);
  return (end - begin) / static_cast<double>(calls);
}

inline bool is_steady(double before, double after) {
  return std::max(before, after) <= kSteady * std::min(before, after);
}

/// The workload's time in seconds, and the machine's ceilings directly before and after it.
template <class Ceiling>
struct Round {
  double seconds;
  Ceiling before, after;
};

/// `seconds()` is the time of one run, `ceiling()` the machine's limit; `before` is its last value. If
/// is_steady(before, after) is false the machine has changed meanwhile, and the round is repeated.
template <class Ceiling, class Seconds, class Measure>
Round<Ceiling> hold_round(const Ceiling& before, Seconds seconds, Measure ceiling) {
  Round<Ceiling> round{0, before, before};
  for (int again = 0;; ++again) {
    round.seconds = seconds();
    round.after = ceiling();
    if (again == kHeldAgain || is_steady(round.before, round.after)) return round;
    round.before = round.after;
  }
}

}  // namespace kumiko::bench
