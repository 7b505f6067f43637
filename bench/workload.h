// SPDX-License-Identifier: Apache-2.0
// A problem and one way to compute it, which is timed.
#pragma once

#include <functional>
#include <string>

#include "bench/machine_peak.h"
#include "bench/problem.h"

namespace kumiko::bench {

/// error() is empty while everything is right.
class Workload {
 public:
  /// Writes `args.out` from the rest of `args`, the problem over one of its sets.
  using Run = std::function<Status(const AttentionArgs& args)>;

  /// Checks the answer once.
  Workload(Problem& problem, Run run);

  const std::string& error() const { return error_; }

  /// Mean seconds of a run over about `window` seconds of back-to-back runs, at least one.
  double seconds_per_run(double window, Clock clock);

  /// Runs once more, over an output of NaNs, and checks every row.
  void verify();

 private:
  void run_once();

  Problem& problem_;
  Run run_;
  int set_ = 0;
  std::string error_;
};

}  // namespace kumiko::bench
