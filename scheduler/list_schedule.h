// SPDX-License-Identifier: Apache-2.0
// Shared by the policies: a linear-time sort by cost, and the clockless simulation of an assignment. A policy
// does not simulate: for decode that would double the time of planning (docs/planning.md).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "scheduler/policy.h"

namespace kumiko::scheduler {

struct CostItem {
  std::int64_t cost;
  std::int32_t index;
};

/// Sorts by descending cost and keeps the order of equals. `buffer` has the size of `items`.
void sort_costliest_first(std::span<CostItem> items, std::span<CostItem> buffer);

/// A domain that has workers, while tasks are assigned to it.
struct DomainLoad {
  int domain;
  double workers;
  double per_worker = 1 / workers;
  double load = 0;

  /// When the domain would be done with `cost` more, all of its workers busy.
  double finish_with(double cost) const { return (load + cost) * per_worker; }
};
/// The domains with workers; if none has any, all of them with one worker each.
std::vector<DomainLoad> loads_of(std::span<const int> workers_per_domain);
/// The domain that would finish first with `cost` more; the first of equals.
DomainLoad& least_loaded(std::span<DomainLoad> domains, double cost);

/// Assignment from the domain of each task: lists sorted costliest first, equals in the order of `sequence`
/// (a permutation of the task numbers), bounds filled in.
Assignment finish_assignment(std::span<const Task> tasks, std::span<const std::int32_t> sequence,
                             std::span<const std::int32_t> domain_of_task,
                             std::span<const int> workers_per_domain);

/// max(ceil(total / workers), costliest task).
std::int64_t makespan_bound(std::span<const Task> tasks, std::span<const int> workers_per_domain);

/// A task in the clockless simulation. Workers are numbered domain after domain.
struct SimulatedTask {
  std::int32_t task;
  std::int32_t worker;
  std::int64_t begin;  ///< In units of cost.
  std::int64_t end;
};
/// Which worker does which task when, in order of start time: the schedule behind simulate_makespan.
std::vector<SimulatedTask> simulate_schedule(std::span<const Task> tasks, const Assignment& assignment,
                                             std::span<const int> workers_per_domain);

/// Time at which the last task ends when each worker, as soon as it is free, takes the next task of its
/// domain, and once that list is empty, of the next domains in turn (cyclically).
std::int64_t simulate_makespan(std::span<const Task> tasks, const Assignment& assignment,
                               std::span<const int> workers_per_domain);

}  // namespace kumiko::scheduler
