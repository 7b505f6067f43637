// SPDX-License-Identifier: Apache-2.0
// How much faster a call is on several threads than on one.
#pragma once

#include <benchmark/benchmark.h>

#include <vector>

#include "bench/ceilings.h"
#include "bench/machine_peak.h"
#include "bench/rounds.h"

namespace kumiko::bench {

/// Rounds of one thread, all, one, in wall time: `one()` and `many()` are seconds of a run. Reports
/// `speedup`, and as `peak_speedup` the gain of the machine's own FMA peak; a round in which the cores were
/// not all available is repeated (ceilings.h).
template <class One, class Many>
void measure_speedup(benchmark::State& state, const FmaRow& row, int threads, One one, Many many) {
  const std::vector<int> first = first_cores(1), cores = first_cores(threads);
  const auto on = [](const std::vector<int>& where, auto& seconds) {
    const ScopedAffinity affinity(where);
    return seconds();
  };
  std::vector<double> speedups, peaks;
  double before = on(first, one);
  for (auto _ : state) {
    double seconds = 0, speedup = 0, peak = 0;
    CoreGain gain(row, threads);
    for (int attempt = 0; attempt < kGainAttempts && !cores_there(peak, threads); ++attempt) {
      gain.begin();
      seconds = on(cores, many);
      peak = gain.end();
      const double after = on(first, one);
      speedup = 0.5 * (before + after) / seconds;
      before = after;
    }
    speedups.push_back(speedup);
    peaks.push_back(peak);
    state.SetIterationTime(seconds);
  }
  state.counters["speedup"] = median(speedups);
  state.counters["peak_speedup"] = median(peaks);
}

}  // namespace kumiko::bench
