// SPDX-License-Identifier: Apache-2.0
// Rounds (rounds.h) as iterations of a Google Benchmark.
#pragma once

#include <benchmark/benchmark.h>

#include <vector>

#include "bench/limit.h"
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

/// Rounds of work that may be bound by multiply-adds or by reading: `ceilings()` returns both of the
/// machine's. The fraction is relative to the one that takes longer, and memory_bound is 1 if that is
/// reading.
template <class Seconds, class Measure>
void report_limit(benchmark::State& state, const Work& work, Seconds seconds, Measure ceilings) {
  std::vector<double> flops, bytes;
  const Rounds r = measure_rounds(state, work.bytes, seconds, [&] {
    const Ceilings now = ceilings();
    flops.push_back(now.flops);
    bytes.push_back(now.bytes);
    return work.bytes / now.limit(work);
  });
  const Ceilings middle{median(flops), median(bytes)};
  state.counters["gbps"] = r.rate * 1e-9;
  state.counters["read_gbps"] = middle.bytes * 1e-9;
  state.counters["peak_gflops"] = middle.flops * 1e-9;
  state.counters["limit_fraction"] = r.fraction;
  state.counters["memory_bound"] = middle.is_memory_bound(work);
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
