// SPDX-License-Identifier: Apache-2.0
#include "bench/workload.h"

#include <utility>

#include "bench/rounds.h"

namespace kumiko::bench {

Workload::Workload(Problem& problem, Run run) : problem_(problem), run_(std::move(run)) {
  verify();
}

double Workload::seconds_per_run(double window, Clock clock) {
  return seconds_per_call(
      window, [clock] { return seconds_on(clock); }, [this] { run_once(); });
}

void Workload::verify() {
  problem_.poison();
  run_once();
  if (error_.empty()) error_ = problem_.check(set_);
}

void Workload::run_once() {
  if (!error_.empty()) return;
  set_ = (set_ + 1) % problem_.sets();
  if (const Status status = run_(problem_.args(set_)); !status.ok()) error_ = status.message();
}

}  // namespace kumiko::bench
