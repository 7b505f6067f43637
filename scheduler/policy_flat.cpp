// SPDX-License-Identifier: Apache-2.0
// Balance alone: the costliest task left goes to the domain that would finish it first (LPT; Graham, 1969).
// Groups are ignored, which is right where all domains read from the same memory, and shows what keeping
// heads together gains.
#include "scheduler/list_schedule.h"
#include "scheduler/policies.h"

namespace kumiko::scheduler {

void assign_flat(std::span<const Task> tasks, std::span<const int> workers_per_domain, PolicySpace& space,
                 Assignment& result) {
  const std::span<CostItem> items = space.items.of(tasks.size());
  Work work;
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    items[i] = {cost_of(tasks[i]), static_cast<std::int32_t>(i), 0};
    work.add(items[i].cost);
  }
  result.lower_bound = makespan_bound(work, workers_per_domain);
  set_loads(workers_per_domain, space);
  if (tasks.empty() || space.domains.empty()) return begin_lists(workers_per_domain, space, result);
  space.domain_of_task.resize(tasks.size());
  const std::span<const CostItem> sorted = space.items.sort(tasks.size());
  for (const CostItem& item : sorted) {
    const auto cost = static_cast<double>(item.cost);
    DomainLoad& taker = least_loaded(space.domains, cost);
    taker.load += cost;
    ++taker.tasks;
    space.domain_of_task[item.index] = taker.domain;
  }
  begin_lists(workers_per_domain, space, result);
  for (const CostItem& item : sorted)
    result.order[space.place[space.domain_of_task[item.index]]++] = item.index;
}

}  // namespace kumiko::scheduler
