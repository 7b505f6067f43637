// SPDX-License-Identifier: Apache-2.0
// How much faster a call is on several threads than on one.
#pragma once

#include <benchmark/benchmark.h>

#include <vector>

#include "bench/ceilings.h"
#include "bench/machine_peak.h"
#include "bench/rounds.h"

namespace kumiko::bench {

/// A round measures one thread, then all, then one again, in wall time: `one()` and `many()` are seconds of a
/// run. A round in which the cores were not all available is repeated (ceilings.h), and in the end left out;
/// if that would leave none, all count. Reports `speedup`, as `peak_speedup` the gain of the machine's own
/// FMA peak, and as `cores_there` whether the rounds that count had all cores.
template <class One, class Many>
void measure_speedup(benchmark::State& state, const FmaRow& row, int threads, One one, Many many) {
  const std::vector<int> first = first_cores(1), cores = first_cores(threads);
  const auto on = [](const std::vector<int>& where, auto& seconds) {
    const ScopedAffinity affinity(where);
    return seconds();
  };
  std::vector<double> speedups, peaks;  // of all rounds
  std::vector<double> counted;          // speedups of those with all cores
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
    if (cores_there(peak, threads)) counted.push_back(speedup);
    peaks.push_back(peak);
    state.SetIterationTime(seconds);
  }
  state.counters["speedup"] = median(counted.empty() ? speedups : counted);
  state.counters["cores_there"] = !counted.empty();
  state.counters["peak_speedup"] = median(peaks);
}

}  // namespace kumiko::bench
