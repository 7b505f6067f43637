// SPDX-License-Identifier: Apache-2.0
// Shared by the policies: a linear-time sort by cost, and the clockless simulation of an assignment. A policy
// does not simulate: for decode that would double the time of planning (docs/planning.md). Functions that
// take a PolicySpace allocate nothing once it and the result have been as large before.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "scheduler/policy.h"

namespace kumiko::scheduler {

inline std::int64_t cost_of(const Task& task) {
  return task.cost > 0 ? task.cost : 0;
}

/// Total and largest cost of some tasks.
struct Work {
  std::int64_t total = 0, costliest = 0;

  void add(std::int64_t cost) {
    total += cost;
    costliest = costliest < cost ? cost : costliest;
  }
  void add(const Work& more) {
    total += more.total;
    costliest = costliest < more.costliest ? more.costliest : costliest;
  }
};

struct CostItem {
  std::int64_t cost;
  std::int32_t index;
  std::int32_t number;  ///< For the user of the item.
};

/// Items in memory that only grows.
class CostItems {
 public:
  void reserve(std::size_t count);
  /// `count` items with unspecified values.
  std::span<CostItem> of(std::size_t count);
  /// Sorts the first `count` items by descending cost, equals in their order. The result is valid until the
  /// next call of any of these functions.
  std::span<const CostItem> sort(std::size_t count);

 private:
  std::unique_ptr<CostItem[]> items_;  // [2 * count_], half of it for sorting
  std::size_t count_ = 0;
};

/// A domain that has workers, while tasks are assigned to it.
struct DomainLoad {
  int domain;
  double workers;
  double per_worker = 1 / workers;
  double load = 0;
  std::int32_t tasks = 0;

  /// When the domain would be done with `cost` more, all of its workers busy.
  double finish_with(double cost) const { return (load + cost) * per_worker; }
};

/// The part of a group's cost that a domain should take.
struct DomainShare {
  DomainLoad* domain;
  double quota;
  double taken = 0;
};

/// A worker in the clockless simulation.
struct SimulatedWorker {
  std::int64_t free_at;
  std::int32_t number;  ///< Ties go to the lower number, so the result does not depend on the heap's shape.
  std::int32_t list;    ///< The domain from whose list it takes now.
  bool operator<(const SimulatedWorker& other) const {
    return free_at != other.free_at ? free_at < other.free_at : number < other.number;
  }
};

/// Groups that follow one another and are alike, such as the heads of a sequence: their tasks have equal
/// costs in equal places.
struct GroupRun {
  std::int32_t first_group, groups;
  std::int32_t first_task, tasks;  ///< first task of the first group; tasks of each group
  std::int32_t next = -1;          ///< the next run that is alike; -1: none
  bool is_first = true;            ///< of the runs that are alike

  std::int32_t task(std::int32_t group) const { return first_task + group * tasks; }
};

/// The memory of a policy and of a simulation.
struct PolicySpace {
  std::vector<DomainLoad> domains;
  std::vector<std::int32_t> domain_of_task;
  CostItems items, pieces;
  std::vector<std::int32_t> place;  // [domains + 1] the next place in each list
  bool any_home = false;            // heads_first: some task has one
  std::vector<Task> by_group;       // tasks in order of their groups, if they were not
  std::vector<std::int32_t> numbers, in_group;
  std::vector<GroupRun> runs;
  std::vector<std::int32_t> domain_of_group;
  std::vector<DomainShare> shares;       // [domains]
  std::vector<SimulatedWorker> workers;  // a heap

  /// For `tasks` tasks in `groups` groups, numbered densely, with at most `in_a_group` in one. in_any_order:
  /// the tasks of a group may be apart.
  void reserve(std::size_t tasks, std::size_t in_a_group, std::size_t groups, bool in_any_order,
               std::span<const int> workers_per_domain);
};

/// Sets space.domains to the domains with workers; if none has any, all of them with one worker each.
void set_loads(std::span<const int> workers_per_domain, PolicySpace& space);
/// The domain that would finish first with `cost` more; the first of equals.
DomainLoad& least_loaded(std::span<DomainLoad> domains, double cost);

/// Sets where the result's lists begin, from the numbers of tasks in space.domains, and space.place to the
/// same.
void begin_lists(std::span<const int> workers_per_domain, PolicySpace& space, Assignment& result);

/// max(ceil(total / workers), costliest task).
std::int64_t makespan_bound(const Work& work, std::span<const int> workers_per_domain);

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
                               std::span<const int> workers_per_domain, PolicySpace& space);
/// The same, in new memory.
std::int64_t simulate_makespan(std::span<const Task> tasks, const Assignment& assignment,
                               std::span<const int> workers_per_domain);

}  // namespace kumiko::scheduler
