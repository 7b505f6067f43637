// SPDX-License-Identifier: Apache-2.0
// The cores on which a benchmark with a given number of threads is measured, and the ceilings there.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "bench/limit.h"
#include "bench/machine_peak.h"

namespace kumiko::bench {

/// The first `threads` of the cores that this process was started on.
std::vector<int> first_cores(int threads);

/// Bytes/s read from `buffer`, which should be touched beforehand, on those cores and on clock_of(threads),
/// now. The first call for a number of threads chooses the loops.
double read_ceiling(int threads, std::span<const std::byte> buffer);

/// The same, and the FLOP/s of `row` on those cores: decode may be bound by either.
Ceilings both_ceilings(const FmaRow& row, int threads, std::span<const std::byte> buffer);

/// How much faster `threads` cores multiply and add than one in the same wall time, now. On virtual cores
/// that may be less than `threads`: at times two of them share one core of the host.
class CoreGain {
 public:
  CoreGain(const FmaRow& row, int threads) : row_(row), threads_(threads) {}
  /// Call before the workload: measures one core.
  void begin();
  /// Call after it: the rate of all cores over that of one.
  double end() const;

 private:
  const FmaRow& row_;
  int threads_;
  double one_ = 0;
};

/// A round of a speedup counts if the gain is within these, times the threads: below, the cores were not all
/// available; above, the one core was disturbed. Otherwise it is repeated, kGainAttempts times in all, and
/// then left out if another round counts.
inline constexpr double kGainLeast = 0.9, kGainMost = 1.05;
inline constexpr int kGainAttempts = 6;
constexpr bool cores_there(double gain, int threads) {
  return gain >= kGainLeast * threads && gain <= kGainMost * threads;
}

}  // namespace kumiko::bench
