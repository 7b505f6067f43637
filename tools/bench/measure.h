// SPDX-License-Identifier: Apache-2.0
// Rounds over several ways to compute one problem, in turns.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "bench/limit.h"
#include "bench/machine_peak.h"
#include "bench/workload.h"

namespace kumiko::tools {

using bench::Ceilings;
using bench::Work;

struct Spread {
  double median = 0, least = 0, most = 0;
};
Spread spread_of(const std::vector<double>& values);

/// Medians over the rounds that count.
struct Result {
  Spread seconds;   ///< A call.
  Spread fraction;  ///< The limit over the seconds of each round, by its own ceilings. 0: no round counts.
  Ceilings ceilings;
  int rounds = 0;
  int left_out = 0;  ///< Rounds above their ceiling: it was measured too low.
};
Result summary(const Work& work, std::span<const double> seconds, std::span<const Ceilings> ceilings);

/// A round whose fraction is above this has measured its ceiling too low; ABOVE_CEILING of
/// bench/run_groups.py.
inline constexpr double kAboveCeiling = 1.02;

struct Entry {
  const bench::FmaRow* peak;
  bench::Workload* workload;
  std::string name;  ///< For the progress.
};

struct Measurement {
  Work work;
  std::vector<int> cpus;
  bench::Clock clock = bench::Clock::cpu;
  int passes = 1;
  double seconds = 0;  ///< Of calls in a round.
};

/// One round of every entry, then the next of every entry, so that all run under the same load of the
/// machine. Calls `progress` before each round.
std::vector<Result> measure(const Measurement& measurement, std::span<const Entry> entries,
                            bench::ReadCeiling& read,
                            const std::function<void(const std::string&)>& progress);

}  // namespace kumiko::tools
