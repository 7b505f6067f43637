// SPDX-License-Identifier: Apache-2.0
#include "tools/topology/report.h"

#include <algorithm>
#include <cstdio>
#include <utility>

namespace kumiko::tools {
namespace {

std::string percent(double part, double whole) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", whole > 0 ? 100 * part / whole : 0.0);
  return text;
}

std::string kib(std::int64_t bytes) {
  return std::to_string(bytes / 1024) + " KiB";
}

std::string machine_lines(const View& view) {
  const scheduler::Topology& topology = view.context.topology;
  std::string text = "machine: " + topology.source + (topology.is_host ? "" : " (not this host)") + ", " +
                     std::to_string(topology.domains.size()) + " domains, " +
                     std::to_string(topology.num_cores()) + " cores\n";
  for (std::size_t d = 0; d < topology.domains.size(); ++d) {
    const scheduler::Domain& domain = topology.domains[d];
    std::vector<int> cpus, taken;
    for (const Lane& lane : view.lanes) {
      if (lane.domain != static_cast<int>(d)) continue;
      cpus.push_back(lane.os_cpu);
      if (lane.worker >= 0) taken.push_back(lane.os_cpu);
    }
    text += "domain " + std::to_string(d) + ": NUMA node " + std::to_string(domain.numa_node) + ", CPUs " +
            cpu_list(cpus) + ", L1 " + kib(domain.l1_bytes_per_core) + " and L2 " +
            kib(domain.l2_bytes_per_core) + " a core, last-level cache " + kib(domain.llc_bytes) + ", " +
            (taken.empty() ? "no workers" : "workers on CPUs " + cpu_list(taken)) + "\n";
  }
  return text;
}

std::string settings_lines(const View& view) {
  const Context::Impl& context = view.context;
  const char* const bind = context.config.bind == scheduler::Bind::close    ? "close"
                           : context.config.bind == scheduler::Bind::spread ? "spread"
                                                                            : "none";
  std::string text = "threads: " + std::to_string(context.executor->concurrency());
  if (context.cgroup_limit > 0) text += ", cgroup quota " + std::to_string(context.cgroup_limit) + " CPUs";
  text += ", executor " + view.executor + ", policy " + context.config.policy->name + ", bind " + bind;
  if (context.config.bind == scheduler::Bind::none) text += " (no thread is bound to its CPU)";
  return text + ", isa " + kernels::name(context.isa) + "\n";
}

// How long each domain's workers would be busy, as a fraction of the time until the last task ends.
std::string balance_lines(const View& view) {
  std::vector<int> domain_of_worker;
  for (std::size_t d = 0; d < view.workers_per_domain.size(); ++d)
    domain_of_worker.insert(domain_of_worker.end(), static_cast<std::size_t>(view.workers_per_domain[d]),
                            static_cast<int>(d));
  std::vector<double> busy(view.workers_per_domain.size(), 0.0);
  for (const scheduler::SimulatedTask& task : view.schedule) {
    const int domain = domain_of_worker[static_cast<std::size_t>(task.worker)];
    busy[static_cast<std::size_t>(domain)] += static_cast<double>(task.end - task.begin);
  }
  std::string text;
  const auto makespan = static_cast<double>(view.makespan);
  for (std::size_t d = 0; d < busy.size(); ++d) {
    if (view.workers_per_domain[d] == 0) continue;
    text += "domain " + std::to_string(d) + ": " + std::to_string(view.workers_per_domain[d]) +
            " workers, predicted busy " + percent(busy[d], makespan * view.workers_per_domain[d]) +
            " of the time\n";
  }
  return text;
}

}  // namespace

View::View(const Context& of, const Plan& planned, std::string executor_name)
    : context(*impl_of(of)), plan(*impl_of(planned)), executor(std::move(executor_name)) {
  workers_per_domain = context.executor->workers_per_domain();
  int first_worker = 0;
  for (std::size_t d = 0; d < context.topology.domains.size(); ++d) {
    int worker = first_worker;
    for (const scheduler::Core& core : context.topology.domains[d].cores) {
      const auto& seats = context.executor->seats();
      const bool taken = std::any_of(seats.begin(), seats.end(), [&](const scheduler::Seat& seat) {
        return seat.domain == static_cast<int>(d) && seat.os_cpu == core.os_cpu;
      });
      lanes.push_back({static_cast<int>(d), core.os_cpu, taken ? worker++ : -1});
    }
    first_worker += workers_per_domain[d];
  }
  schedule =
      scheduler::simulate_schedule(plan.partition.costs, plan.partition.assignment, workers_per_domain);
  for (const scheduler::SimulatedTask& task : schedule) makespan = std::max(makespan, task.end);
}

std::string cpu_list(const std::vector<int>& cpus) {
  std::string text;
  for (std::size_t i = 0; i < cpus.size();) {
    std::size_t last = i;
    while (last + 1 < cpus.size() && cpus[last + 1] == cpus[last] + 1) ++last;
    text += (text.empty() ? "" : ",") + std::to_string(cpus[i]);
    if (last > i) text += "-" + std::to_string(cpus[last]);
    i = last + 1;
  }
  return text;
}

std::string text_report(const View& view) {
  return machine_lines(view) + settings_lines(view) + "\n" + view.plan.explain() + balance_lines(view);
}

}  // namespace kumiko::tools
