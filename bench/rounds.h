// The measurement that all benchmarks share: rounds of ceiling, workload, ceiling, and medians over them.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

#include "bench/machine_peak.h"

namespace kumiko::bench {

inline constexpr int kRounds = 5;
inline constexpr int kCallRounds = 3;  // Of whole attention calls, ours and peers': many take a second.
inline constexpr double kWorkWindow = 30e-3;  // Seconds of an attention call's runs in a round.
inline constexpr double kSteady = 1.25;       // Ceilings around a round may differ by so much,
inline constexpr int kHeldAgain = 3;          // or it is held again so often.

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n == 0 ? 0 : n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

/// Mean seconds of a call of `run` over about `window` seconds of back-to-back calls, by `clock()`: now for
/// what a user waits, a clock of CPU time for code of one thread, which stands still while another process
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
    if (end - last < 100e-6) batch *= 2;  // A look at a clock costs up to 0.5 us.
  } while (end - begin < window);
  return (end - begin) / static_cast<double>(calls);
}

struct Rounds {
  double rate = 0, ceiling = 0, fraction = 0;  // Medians.
};

/// One iteration of `state` is a round: `seconds()` is the time of one run of `work` units, `ceiling()` the
/// machine's units per second. Each round's fraction is taken against the mean of the ceilings right before
/// and right after it; where the two disagree the machine has changed meanwhile, and the round is held again.
template <class Seconds, class Ceiling>
Rounds measure_rounds(benchmark::State& state, double work, Seconds seconds, Ceiling ceiling) {
  std::vector<double> rates, ceilings, fractions;
  double before = ceiling();
  for (auto _ : state) {
    double time = seconds(), after = ceiling();
    for (int again = 0; again < kHeldAgain && std::max(before, after) > kSteady * std::min(before, after);
         ++again) {
      before = after;
      time = seconds();
      after = ceiling();
    }
    rates.push_back(work / time);
    ceilings.push_back(0.5 * (before + after));
    fractions.push_back(rates.back() / ceilings.back());
    before = after;
    state.SetIterationTime(time);
  }
  return {median(rates), median(ceilings), median(fractions)};
}

inline void report_compute(benchmark::State& state, const Rounds& r) {
  state.counters["gflops"] = r.rate * 1e-9;
  state.counters["peak_gflops"] = r.ceiling * 1e-9;
  state.counters["peak_fraction"] = r.fraction;
}

inline void report_bandwidth(benchmark::State& state, const Rounds& r) {
  state.counters["gbps"] = r.rate * 1e-9;
  state.counters["read_gbps"] = r.ceiling * 1e-9;
  state.counters["bandwidth_fraction"] = r.fraction;
}

}  // namespace kumiko::bench
