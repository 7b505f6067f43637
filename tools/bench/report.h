// SPDX-License-Identifier: Apache-2.0
// What kumiko-bench found out, as text and as JSON.
#pragma once

#include <string>
#include <vector>

#include "tools/bench/measure.h"
#include "tools/bench/options.h"
#include "tools/bench/ways.h"

namespace kumiko::tools {

struct Report {
  const Options& options;
  const Ways& ways;
  Work work{};
  std::vector<Result> results{};  ///< [ways.measured]
  int copies = 1;                 ///< Of keys and values, which calls go round.
  double copied_bytes = 0;        ///< What they take together.
  std::string read_loop{};        ///< The fastest one.
  double others_took = 0;         ///< Cores, while the rounds were held.
  bench::Clock clock = bench::Clock::cpu;
};

std::string text_report(const Report& report);
/// docs/benchmarking.md has its fields.
std::string json_report(const Report& report);

}  // namespace kumiko::tools
