// SPDX-License-Identifier: Apache-2.0
// Balance alone: the costliest task left goes to the domain that would finish it first (LPT; Graham, 1969).
// Groups are ignored, which is right where all domains read from the same memory, and shows what keeping
// heads together gains.
#include <algorithm>

#include "scheduler/list_schedule.h"
#include "scheduler/policies.h"

namespace kumiko::scheduler {

void assign_flat(std::span<const Task> tasks, std::span<const int> workers_per_domain, PolicySpace& space,
                 Assignment& result) {
  set_loads(tasks, workers_per_domain, space);
  space.domain_of_task.assign(tasks.size(), 0);
  space.sequence.clear();
  if (tasks.empty() || space.domains.empty())
    return finish_assignment(tasks, workers_per_domain, space, result);
  const std::span<CostItem> items = space.items.of(tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    items[i] = {std::max<std::int64_t>(tasks[i].cost, 0), static_cast<std::int32_t>(i), 0};
  }
  for (const CostItem& item : space.items.sort(tasks.size())) {
    const auto cost = static_cast<double>(item.cost);
    DomainLoad& taker = least_loaded(space.domains, cost);
    taker.load += cost;
    ++taker.tasks;
    space.domain_of_task[item.index] = taker.domain;
    space.sequence.push_back(item.index);
  }
  finish_assignment(tasks, workers_per_domain, space, result);
}

}  // namespace kumiko::scheduler
