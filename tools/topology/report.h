// SPDX-License-Identifier: Apache-2.0
// What kumiko-topology shows of a context and of a plan on it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/context.h"
#include "runtime/plan.h"
#include "scheduler/list_schedule.h"

namespace kumiko::tools {

/// A row of the picture: a core, and the worker on it if there is one.
struct Lane {
  int domain = 0;
  int os_cpu = 0;
  int worker = -1;  ///< In the simulation's numbering; -1: none.
};

/// A context's machine and a plan's tasks, simulated without a clock.
struct View {
  const Context::Impl& context;
  const Plan::Impl& plan;
  std::string executor;  ///< The one that the runtime would use.
  std::vector<int> workers_per_domain;
  std::vector<Lane> lanes;  ///< Domain after domain.
  std::vector<scheduler::SimulatedTask> schedule;
  std::int64_t makespan = 0;  ///< When the last task ends.

  View(const Context& context, const Plan& plan, std::string executor);
};

/// "0-3,8" from ascending numbers.
std::string cpu_list(const std::vector<int>& cpus);

std::string text_report(const View& view);
/// One line per lane, with tasks as boxes along predicted time and a colour for each KV head.
std::string svg_picture(const View& view);

}  // namespace kumiko::tools
