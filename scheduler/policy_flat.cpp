// SPDX-License-Identifier: Apache-2.0
// Balance alone: the costliest task left goes to the domain that would finish it first (LPT; Graham, 1969).
// Groups are ignored, which is right where all domains read from the same memory, and shows what keeping
// heads together gains.
#include <algorithm>

#include "scheduler/list_schedule.h"
#include "scheduler/policies.h"

namespace kumiko::scheduler {

Assignment assign_flat(std::span<const Task> tasks, std::span<const int> workers_per_domain) {
  std::vector<DomainLoad> domains = loads_of(workers_per_domain);
  std::vector<std::int32_t> domain_of_task(tasks.size(), 0);
  if (tasks.empty() || domains.empty())
    return finish_assignment(tasks, {}, domain_of_task, workers_per_domain);
  std::vector<CostItem> order(2 * tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    order[i] = {std::max<std::int64_t>(tasks[i].cost, 0), static_cast<std::int32_t>(i)};
  }
  const std::span<CostItem> items(order);
  sort_costliest_first(items.first(tasks.size()), items.subspan(tasks.size()));
  std::vector<std::int32_t> sequence;
  sequence.reserve(tasks.size());
  for (const CostItem& item : items.first(tasks.size())) {
    const auto cost = static_cast<double>(item.cost);
    DomainLoad& taker = least_loaded(domains, cost);
    taker.load += cost;
    domain_of_task[item.index] = taker.domain;
    sequence.push_back(item.index);
  }
  return finish_assignment(tasks, sequence, domain_of_task, workers_per_domain);
}

}  // namespace kumiko::scheduler
