// SPDX-License-Identifier: Apache-2.0
// How long a plan's tasks would take on a machine of given rates: simulates the executor without threads.
#include <algorithm>
#include <cmath>

#include "runtime/plan.h"
#include "runtime/traffic.h"
#include "scheduler/list_schedule.h"

namespace kumiko {
namespace {

// The scheduler adds up integers: picoseconds, or longer ticks if all tasks together take more of them.
constexpr double kTicksPerSecond = 1e12, kMostTicks = 0x1p60;

bool is_rate(double rate) {
  return std::isfinite(rate) && rate > 0;
}

}  // namespace

Prediction Plan::Impl::predict(const MachineRates& rates) const {
  if (!is_rate(rates.core_flops) || !is_rate(rates.core_bandwidth) || !is_rate(rates.domain_bandwidth))
    return {};
  const std::vector<int> workers = context->executor->workers_per_domain();
  const scheduler::Assignment& assignment = partition.assignment;
  std::vector<double> seconds_of(partition.tasks.size());
  double total = 0;
  for (std::size_t d = 0; d + 1 < assignment.domain_begin.size(); ++d) {
    const double bandwidth = std::min(rates.core_bandwidth, rates.domain_bandwidth / std::max(workers[d], 1));
    for (std::int32_t i = assignment.domain_begin[d]; i < assignment.domain_begin[d + 1]; ++i) {
      const auto number = static_cast<std::size_t>(assignment.order[static_cast<std::size_t>(i)]);
      const auto bytes = static_cast<double>(bytes_read(*this, partition.tasks[number]));
      const double seconds = seconds_of[number] = std::max(
          2 * partition.cost_unit * static_cast<double>(partition.costs[number].cost) / rates.core_flops,
          bytes / bandwidth);
      total += seconds;
    }
  }
  if (std::isinf(total)) return {total, total};
  const double ticks = total * kTicksPerSecond > kMostTicks ? kMostTicks / total : kTicksPerSecond;
  std::vector<scheduler::Task> durations(seconds_of.size());
  for (std::size_t i = 0; i < durations.size(); ++i) durations[i].cost = std::llround(seconds_of[i] * ticks);
  const int threads = context->executor->concurrency();
  Prediction result;
  result.seconds = static_cast<double>(scheduler::simulate_makespan(durations, assignment, workers)) / ticks +
                   rates.start_seconds;
  result.attainable_seconds = total / threads;
  return result;
}

}  // namespace kumiko
