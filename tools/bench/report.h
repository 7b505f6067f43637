// SPDX-License-Identifier: Apache-2.0
// The results of kumiko-bench, as text and as JSON.
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
  int copies = 1;                 ///< Of keys and values; calls cycle through them.
  double copied_bytes = 0;        ///< The size of all copies.
  std::string read_loop{};        ///< The fastest one.
  double others_took = 0;         ///< Cores, during the rounds.
  bench::Clock clock = bench::Clock::cpu;
};

std::string text_report(const Report& report);
/// The fields are in docs/benchmarking.md.
std::string json_report(const Report& report);

}  // namespace kumiko::tools
