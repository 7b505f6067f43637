// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/inside.h"

#include <algorithm>

#include "kernels/cpu.h"
#include "runtime/context.h"
#include "runtime/plan.h"
#include "scheduler/executor.h"

namespace kumiko::tools {

Settings settings_of(const Context& context) {
  const Context::Impl& impl = *impl_of(context);
  Settings settings{.cpus = {},
                    .executor = impl.executor->name(),
                    .foreign_topology = "",
                    .pipeline = impl.config.pipeline,
                    .is_isa_given = impl.config.isa.has_value()};
  for (const scheduler::Seat& seat : impl.executor->seats()) settings.cpus.push_back(seat.os_cpu);
  std::sort(settings.cpus.begin(), settings.cpus.end());
  if (!impl.topology.is_host)
    settings.foreign_topology =
        impl.config.topology_setting.error("none: what is timed is this host").message();
  return settings;
}

std::string pipeline_of(const Plan& plan) {
  return impl_of(plan)->tunings.many.pipeline->name;  // All sequences here have as many queries.
}

std::vector<std::pair<std::string, Pipeline>> pipelines() {
  std::vector<std::pair<std::string, Pipeline>> found;
  for (const Pipeline pipeline : kPipelines) found.emplace_back(pipeline_name(pipeline), pipeline);
  return found;
}

std::vector<std::string> executor_names() {
  std::vector<std::string> names;
  for (const scheduler::ExecutorRow& row : scheduler::executors()) names.emplace_back(row.name);
  return names;
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const kernels::Isa isa : kernels::kIsas) names.emplace_back(kernels::name(isa));
  return names;
}

std::vector<std::string> host_isas() {
  std::vector<std::string> names;
  for (const kernels::Isa isa : kernels::kIsas) {
    if ((kernels::host_isas() & kernels::bit(isa)) != 0) names.emplace_back(kernels::name(isa));
  }
  return names;
}

std::string base_isa(const std::string& isa) {
  return kernels::name(kernels::base_of(kernels::parse_isa(isa).value()));
}

}  // namespace kumiko::tools
