// SPDX-License-Identifier: Apache-2.0
// The ways to compute a problem that kumiko-bench measures.
#pragma once

#include <kumiko/attention.h>

#include <string>
#include <vector>

#include "bench/machine_peak.h"
#include "tools/bench/options.h"

namespace kumiko::tools {

/// A pipeline on an instruction set.
struct Way {
  std::string isa, pipeline;
  bool is_default = false;               ///< The library's own choice.
  const bench::FmaRow* peak = nullptr;   ///< Multiply-adds of the kind that its products use.
  Pipeline asked = Pipeline::automatic;  ///< The AttentionArgs::pipeline that was planned.
  Plan plan;                             ///< Keeps its context alive.

  std::string name() const { return pipeline + " on " + isa; }
};

struct LeftOut {
  std::string isa, pipeline, reason;
};

/// The threads that all ways run on.
struct Threads {
  std::vector<int> cpus;  ///< One per thread, ascending.
  std::string executor;
};

struct Ways {
  Threads threads;
  std::vector<Way> measured;  ///< At least one, the default first where it is among them.
  std::vector<LeftOut> left_out;
};

/// Makes the plans that `options` ask for; no tensor exists yet. Errors: those of Context::create and plan(),
/// and unsupported if the topology is not that of this host.
Status find_ways(const Options& options, Ways* ways);

}  // namespace kumiko::tools
