// SPDX-License-Identifier: Apache-2.0
#include "scheduler/list_schedule.h"

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

namespace kumiko::scheduler {
namespace {

constexpr std::size_t kFewItems = 32;  // Sorted by insertion.

void insert_costliest_first(std::span<CostItem> items) {
  for (std::size_t i = 1; i < items.size(); ++i) {
    const CostItem item = items[i];
    std::size_t at = i;
    for (; at > 0 && items[at - 1].cost < item.cost; --at) items[at] = items[at - 1];
    items[at] = item;
  }
}

}  // namespace

void CostItems::reserve(std::size_t count) {
  if (count <= count_) return;
  items_ = std::make_unique_for_overwrite<CostItem[]>(2 * count);
  count_ = count;
}

std::span<CostItem> CostItems::of(std::size_t count) {
  reserve(count);
  return {items_.get(), count};
}

// LSD radix sort, if there are many, over the bits in which the costs differ: 22 for a batch of decodes. A
// comparison sort of 512 tasks takes about 4600 badly predicted branches.
std::span<const CostItem> CostItems::sort(std::size_t count) {
  const std::span<CostItem> items(items_.get(), count);
  if (count <= kFewItems) return insert_costliest_first(items), items;
  std::uint64_t differ = 0;
  bool sorted = true;
  for (std::size_t i = 1; i < count; ++i) {
    differ |= static_cast<std::uint64_t>(items[i].cost ^ items[0].cost);
    sorted &= items[i - 1].cost >= items[i].cost;
  }
  if (sorted) return items;
  const int low = std::countr_zero(differ);
  const int bits = count > 512 ? 11 : 8;  // of a pass, which sums up 2^bits counts
  const std::uint64_t mask = (std::uint64_t{1} << bits) - 1;
  CostItem *from = items_.get(), *to = from + count_;
  for (int shift = low; shift < 64 && differ >> shift != 0; shift += bits) {
    // Costs are not negative, so descending costs are ascending complements.
    const auto digit = [shift, mask](const CostItem& item) {
      return ~static_cast<std::uint64_t>(item.cost) >> shift & mask;
    };
    std::array<std::uint32_t, 1 << 11> place;
    std::fill_n(place.begin(), mask + 1, 0);
    for (const CostItem& item : std::span(from, count)) ++place[digit(item)];
    std::uint32_t begin = 0;
    for (std::uint64_t d = 0; d <= mask; ++d) begin += std::exchange(place[d], begin);
    for (const CostItem& item : std::span(from, count)) to[place[digit(item)]++] = item;
    std::swap(from, to);
  }
  return {from, count};
}

void PolicySpace::reserve(std::size_t tasks, std::size_t in_a_group, std::size_t groups, bool in_any_order,
                          std::span<const int> workers_per_domain) {
  const std::size_t num_domains = workers_per_domain.size();
  std::size_t all = 1;
  for (const int w : workers_per_domain) all += static_cast<std::size_t>(std::max(w, 0));
  domains.reserve(num_domains);
  shares.reserve(num_domains);
  place.reserve(num_domains + 1);
  workers.reserve(all);
  domain_of_task.reserve(tasks);
  items.reserve(tasks);
  pieces.reserve(in_a_group);
  runs.reserve(groups);
  domain_of_group.reserve(groups);
  if (!in_any_order) return;
  by_group.reserve(tasks);
  numbers.reserve(tasks);
  in_group.reserve(groups + 1);
}

void set_loads(std::span<const int> workers_per_domain, PolicySpace& space) {
  std::vector<DomainLoad>& loads = space.domains;
  loads.clear();
  const bool any =
      std::any_of(workers_per_domain.begin(), workers_per_domain.end(), [](int w) { return w > 0; });
  for (std::size_t d = 0; d < workers_per_domain.size(); ++d) {
    const int workers = any ? workers_per_domain[d] : 1;
    if (workers > 0) loads.push_back({static_cast<int>(d), static_cast<double>(workers)});
  }
}

DomainLoad& least_loaded(std::span<DomainLoad> domains, double cost) {
  DomainLoad* best = &domains[0];
  double best_finish = best->finish_with(cost);
  for (DomainLoad& domain : domains.subspan(1)) {
    const double finish = domain.finish_with(cost);
    if (finish < best_finish) {
      best = &domain;
      best_finish = finish;
    }
  }
  return *best;
}

std::int64_t makespan_bound(const Work& work, std::span<const int> workers_per_domain) {
  std::int64_t workers = 0;
  for (const int w : workers_per_domain) workers += std::max(w, 0);
  workers = std::max<std::int64_t>(workers, 1);
  return std::max(work.total / workers + (work.total % workers != 0), work.costliest);
}

namespace {

// Calls visit(SimulatedTask) for every task.
template <class Visit>
void simulate(std::span<const Task> tasks, const Assignment& assignment,
              std::span<const int> workers_per_domain, PolicySpace& space, Visit visit) {
  const int num_domains = static_cast<int>(assignment.domain_begin.size()) - 1;
  std::vector<SimulatedWorker>& heap = space.workers;
  heap.clear();
  for (int d = 0; d < num_domains; ++d) {
    for (int w = 0; w < workers_per_domain[d]; ++w)
      heap.push_back({0, static_cast<std::int32_t>(heap.size()), d});
  }
  if (heap.empty() && num_domains > 0) heap.push_back({0, 0, 0});
  std::vector<std::int32_t>& next = space.place;
  next = assignment.domain_begin;
  for (std::size_t left = assignment.order.size(); left > 0; --left) {
    SimulatedWorker worker = heap.front();
    // All lists before the worker's current one stay empty, so it never has to look back.
    while (next[worker.list] == assignment.domain_begin[worker.list + 1]) {
      worker.list = worker.list + 1 == num_domains ? 0 : worker.list + 1;
    }
    const std::int32_t task = assignment.order[next[worker.list]++];
    const std::int64_t begin = worker.free_at;
    worker.free_at += cost_of(tasks[task]);
    visit(SimulatedTask{task, worker.number, begin, worker.free_at});
    std::size_t hole = 0;
    for (std::size_t child = 1; child < heap.size(); child = 2 * hole + 1) {
      if (child + 1 < heap.size() && heap[child + 1] < heap[child]) ++child;
      if (!(heap[child] < worker)) break;
      heap[hole] = heap[child];
      hole = child;
    }
    heap[hole] = worker;
  }
}

}  // namespace

std::vector<SimulatedTask> simulate_schedule(std::span<const Task> tasks, const Assignment& assignment,
                                             std::span<const int> workers_per_domain) {
  std::vector<SimulatedTask> schedule;
  schedule.reserve(assignment.order.size());
  PolicySpace space;
  simulate(tasks, assignment, workers_per_domain, space,
           [&](const SimulatedTask& task) { schedule.push_back(task); });
  return schedule;
}

std::int64_t simulate_makespan(std::span<const Task> tasks, const Assignment& assignment,
                               std::span<const int> workers_per_domain, PolicySpace& space) {
  std::int64_t makespan = 0;
  simulate(tasks, assignment, workers_per_domain, space,
           [&](const SimulatedTask& task) { makespan = std::max(makespan, task.end); });
  return makespan;
}

std::int64_t simulate_makespan(std::span<const Task> tasks, const Assignment& assignment,
                               std::span<const int> workers_per_domain) {
  PolicySpace space;
  return simulate_makespan(tasks, assignment, workers_per_domain, space);
}

void begin_lists(std::span<const int> workers_per_domain, PolicySpace& space, Assignment& result) {
  const std::size_t num_domains = workers_per_domain.size();
  result.domain_begin.assign(num_domains + 1, 0);
  for (const DomainLoad& domain : space.domains)
    result.domain_begin[static_cast<std::size_t>(domain.domain) + 1] = domain.tasks;
  for (std::size_t d = 0; d < num_domains; ++d) result.domain_begin[d + 1] += result.domain_begin[d];
  result.order.resize(static_cast<std::size_t>(result.domain_begin.back()));
  space.place = result.domain_begin;
}

}  // namespace kumiko::scheduler
