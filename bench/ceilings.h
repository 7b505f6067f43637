// SPDX-License-Identifier: Apache-2.0
// The cores that a benchmark of so many threads is measured on, and the ceilings there.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "bench/machine_peak.h"

namespace kumiko::bench {

/// The first `threads` of the cores that this process was started on.
std::vector<int> first_cores(int threads);

/// Bytes/s read from `buffer`, which should be touched beforehand, on those cores and on clock_of(threads),
/// now. The first call for so many threads chooses the loops.
double read_ceiling(int threads, std::span<const std::byte> buffer);

/// How much faster than one core `threads` of them multiply and add in the same wall time, now. On virtual
/// cores that need not be `threads`: at times two of them share one core of the host.
class CoreGain {
 public:
  CoreGain(const FmaRow& row, int threads) : row_(row), threads_(threads) {}
  /// Before the workload: one core.
  void begin();
  /// After it: all of them, over one.
  double end() const;

 private:
  const FmaRow& row_;
  int threads_;
  double one_ = 0;
};

/// A round of a speedup counts where the gain is within these, times the threads: with less the cores were
/// not there, with more the one core was disturbed. Otherwise it is held again, kGainAttempts times in all.
inline constexpr double kGainLeast = 0.9, kGainMost = 1.05;
inline constexpr int kGainAttempts = 6;
constexpr bool cores_there(double gain, int threads) {
  return gain >= kGainLeast * threads && gain <= kGainMost * threads;
}

}  // namespace kumiko::bench
