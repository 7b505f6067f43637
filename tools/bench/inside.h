// SPDX-License-Identifier: Apache-2.0
// What kumiko-bench needs from the library's inside. The build tree's <kumiko/attention.h>, which users and
// benchmarks include, is a copy of runtime/attention.h: one file cannot include both, so this includes
// neither.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace kumiko {
class Context;
class Plan;
enum class Pipeline : std::uint8_t;
}  // namespace kumiko

namespace kumiko::tools {

/// The settings that follow from options and variables.
struct Settings {
  std::vector<int> cpus;  ///< One per thread, ascending.
  std::string executor;
  std::string foreign_topology;  ///< A sentence where the topology is not that of this host.
  Pipeline pipeline;             ///< That of KUMIKO_PIPELINE, or automatic.
  bool is_isa_given = false;     ///< By an option or a variable.
};
Settings settings_of(const Context& context);

std::string pipeline_of(const Plan& plan);

/// The pipelines that can be forced.
std::vector<std::pair<std::string, Pipeline>> pipelines();
std::vector<std::string> executor_names();
/// Every ISA, preferred ones first; and those that this machine runs.
std::vector<std::string> isa_names();
std::vector<std::string> host_isas();
/// The ISA that `isa` extends, or `isa` itself.
std::string base_isa(const std::string& isa);

}  // namespace kumiko::tools
