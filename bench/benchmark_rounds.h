// SPDX-License-Identifier: Apache-2.0
// Rounds (rounds.h) as iterations of a Google Benchmark.
#pragma once

#include <benchmark/benchmark.h>

#include <vector>

#include "bench/rounds.h"

namespace kumiko::bench {

struct Rounds {
  double rate = 0, ceiling = 0, fraction = 0;  // Medians.
};

/// One iteration of `state` is a round: `seconds()` is the time of one run of `work` units, `ceiling()` the
/// machine's units per second. Each round's fraction is relative to the mean of the ceilings directly before
/// and after it.
template <class Seconds, class Ceiling>
Rounds measure_rounds(benchmark::State& state, double work, Seconds seconds, Ceiling ceiling) {
  std::vector<double> rates, ceilings, fractions;
  double before = ceiling();
  for (auto _ : state) {
    const Round<double> round = hold_round(before, seconds, ceiling);
    rates.push_back(work / round.seconds);
    ceilings.push_back(0.5 * (round.before + round.after));
    fractions.push_back(rates.back() / ceilings.back());
    before = round.after;
    state.SetIterationTime(round.seconds);
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
