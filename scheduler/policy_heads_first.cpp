// SPDX-License-Identifier: Apache-2.0
// The default policy: a group (one KV head) stays in one domain, so that its keys and values are read into
// one last-level cache and onto one NUMA node. Balance comes second, but no domain exceeds kSlack.
//
// Groups are assigned costliest first to the domain that would finish them first: LPT on machines of unequal
// speed (Gonzalez, Ibarra & Sahni, 1977), where a domain's speed is its number of workers. Groups whose
// memory has a home go first, to that home if kSlack allows it, so that the others fill what is left.
#include <algorithm>
#include <numeric>

#include "scheduler/list_schedule.h"
#include "scheduler/policies.h"

namespace kumiko::scheduler {
namespace {

// How much busier than in a perfect balance a domain may be before a group is split. Reading a head from a
// second node costs more than 3 % of its time on every machine with more than one domain, and idle workers
// help other domains anyway.
constexpr double kSlack = 1.03;
constexpr std::int32_t kInPieces = -1;  // In place of the domain of a group: its tasks have one each.

// The tasks, group after group and within a group in their order; sets space.numbers to their numbers. A
// counting sort where group numbers are dense, and a comparison sort where not.
std::span<const Task> order_by_group(std::span<const Task> tasks, PolicySpace& space) {
  const std::size_t n = tasks.size();
  std::vector<std::int32_t>& numbers = space.numbers;
  numbers.resize(n);
  const auto [lowest, highest] = std::minmax_element(
      tasks.begin(), tasks.end(), [](const Task& a, const Task& b) { return a.group < b.group; });
  const std::int32_t low = lowest->group;
  const std::int64_t range = std::int64_t{highest->group} - low + 1;
  if (range <= static_cast<std::int64_t>(4 * n + 64)) {
    std::vector<std::int32_t>& place = space.in_group;
    place.assign(static_cast<std::size_t>(range) + 1, 0);
    for (const Task& task : tasks) ++place[task.group - low + 1];
    for (std::size_t g = 0; g < static_cast<std::size_t>(range); ++g) place[g + 1] += place[g];
    for (std::size_t i = 0; i < n; ++i) numbers[place[tasks[i].group - low]++] = static_cast<std::int32_t>(i);
  } else {
    std::iota(numbers.begin(), numbers.end(), 0);
    // Not std::stable_sort, which allocates.
    std::sort(numbers.begin(), numbers.end(), [&](std::int32_t a, std::int32_t b) {
      return tasks[a].group != tasks[b].group ? tasks[a].group < tasks[b].group : a < b;
    });
  }
  space.by_group.resize(n);
  for (std::size_t i = 0; i < n; ++i) space.by_group[i] = tasks[numbers[i]];
  return space.by_group;
}

// Whether the groups of two runs have equal costs in equal places.
bool are_alike(std::span<const Task> tasks, const GroupRun& a, const GroupRun& b) {
  return a.tasks == b.tasks &&
         std::equal(tasks.begin() + a.task(0), tasks.begin() + a.task(1), tasks.begin() + b.task(0),
                    [](const Task& x, const Task& y) { return x.cost == y.cost; });
}

// Adds a run and links it to the run before the last if the two are alike. The heads of a sequence alternate
// between two kinds if some have fine pieces (runtime/partitioner.h).
void add_run(std::span<const Task> tasks, const GroupRun& run, PolicySpace& space) {
  std::vector<GroupRun>& runs = space.runs;
  const auto number = static_cast<std::int32_t>(runs.size());
  runs.push_back(run);
  if (number < 2 || !are_alike(tasks, run, runs[number - 2])) return;
  runs[number - 2].next = number;
  runs[number].is_first = false;
}

// Sets space.runs and adds up their work. Returns how many of space.items it has set, runs `index` to `index
// + number` - 1 with the cost of each of their groups; or 0 if the tasks do not come group after group.
std::size_t collect_runs(std::span<const Task> tasks, PolicySpace& space, Work* work) {
  std::vector<GroupRun>& runs = space.runs;
  runs.clear();
  space.any_home = false;
  const std::span<CostItem> items = space.items.of(tasks.size());
  std::size_t num_items = 0;
  std::int32_t groups = 0;
  for (std::size_t i = 0; i < tasks.size(); ++groups) {
    const std::size_t begin = i,
                      tasks_before = runs.empty() ? 0 : static_cast<std::size_t>(runs.back().tasks);
    const std::int32_t group = tasks[i].group;
    if (i > 0 && group < tasks[i - 1].group) return 0;
    space.any_home |= tasks[i].home >= 0;
    Work of_group;
    bool is_alike = true;
    do {
      of_group.add(cost_of(tasks[i]));
      is_alike &= tasks[i].cost == tasks[i - tasks_before].cost;
    } while (++i < tasks.size() && tasks[i].group == group);
    work->add(of_group);
    if (is_alike && i - begin == tasks_before) {
      ++runs.back().groups;
      continue;
    }
    if (num_items > 0 && items[num_items - 1].cost == of_group.total)
      ++items[num_items - 1].number;
    else
      items[num_items++] = {of_group.total, static_cast<std::int32_t>(runs.size()), 1};
    add_run(tasks, {groups, 1, static_cast<std::int32_t>(begin), static_cast<std::int32_t>(i - begin)},
            space);
  }
  space.domain_of_group.resize(static_cast<std::size_t>(groups));
  return num_items;
}

// Sets space.shares to the domains with the most room below a perfect balance, as few as can take `cost`
// together. The sum of all rooms covers whatever is not assigned yet, apart from rounding where costs add up
// to more than 2^53: then a domain without room may be reached, with the quota 0, which any task exceeds.
void share_out(double cost, double bound, PolicySpace& space) {
  std::vector<DomainShare>& shares = space.shares;
  shares.clear();
  for (DomainLoad& domain : space.domains)
    shares.push_back({&domain, std::max(bound * domain.workers - domain.load, 0.0)});
  std::sort(shares.begin(), shares.end(), [](const DomainShare& a, const DomainShare& b) {
    return a.quota != b.quota ? a.quota > b.quota : a.domain < b.domain;
  });
  double left = cost;
  std::size_t used = 0;
  for (; used < shares.size() && left > 0; ++used) {
    shares[used].quota = std::min(shares[used].quota, left);
    left -= shares[used].quota;
  }
  shares.erase(shares.begin() + static_cast<std::ptrdiff_t>(used), shares.end());
}

// Deals a group, tasks [first, first + count), that fits into no domain whole among space.shares. It does not
// matter which of its tasks stay together, as all read the same head. So each domain gets costly and cheap
// tasks alike, which its workers can balance.
void deal_in_pieces(std::span<const Task> tasks, std::int32_t first, std::size_t count, PolicySpace& space) {
  const std::span<CostItem> items = space.pieces.of(count);
  for (std::int32_t i = 0; CostItem & item : items) {
    item = {cost_of(tasks[first + i]), first + i, 0};
    ++i;
  }
  for (const CostItem& item : space.pieces.sort(count)) {
    const auto cost = static_cast<double>(item.cost);
    const auto filled = [cost](const DomainShare& share) { return (share.taken + cost) / share.quota; };
    DomainShare& taker =
        *std::min_element(space.shares.begin(), space.shares.end(),
                          [&](const DomainShare& a, const DomainShare& b) { return filled(a) < filled(b); });
    taker.taken += cost;
    taker.domain->load += cost;
    ++taker.domain->tasks;
    space.domain_of_task[item.index] = taker.domain->domain;
  }
}

// Fills the lists, costliest first: the places of tasks in the groups of each kind are sorted, not all the
// tasks. Of equals those of a group follow one another, as they read the same keys.
void fill_lists(std::span<const Task> tasks, PolicySpace& space, Assignment& result) {
  CostItem* const places = space.items.of(tasks.size()).data();
  std::size_t count = 0;
  for (std::size_t r = 0; r < space.runs.size(); ++r) {
    const GroupRun& run = space.runs[r];
    for (std::int32_t i = 0; run.is_first && i < run.tasks; ++i)
      places[count++] = {cost_of(tasks[run.first_task + i]), static_cast<std::int32_t>(r), i};
  }
  const std::span<const CostItem> sorted = space.items.sort(count);
  const std::int32_t* const domain_of_task = space.domain_of_task.data();
  std::int32_t *const order = result.order.data(), *const next = space.place.data();
  for (const CostItem *first = sorted.data(), *const end = first + count, *last; first != end; first = last) {
    last = first + 1;
    while (last != end && last->index == first->index && last->cost == first->cost) ++last;
    for (std::int32_t r = first->index; r >= 0; r = space.runs[r].next) {
      const GroupRun& run = space.runs[r];
      std::int32_t group_begin = run.first_task;
      const std::int32_t* domain = space.domain_of_group.data() + run.first_group;
      for (const std::int32_t* const last_domain = domain + run.groups; domain != last_domain; ++domain) {
        const std::int32_t of_group = *domain;
        for (const CostItem* place = first; place != last; ++place) {
          const std::int32_t task = group_begin + place->number,
                             d = of_group != kInPieces ? of_group : domain_of_task[task];
          order[next[d]++] = task;
        }
        group_begin += run.tasks;
      }
    }
  }
  if (space.numbers.empty()) return;
  for (std::int32_t& task : result.order) task = space.numbers[task];
}

/// The domain `home`, or nullptr if it is -1 or has no workers.
DomainLoad* find_home(std::span<DomainLoad> domains, int home) {
  for (DomainLoad& domain : domains) {
    if (domain.domain == home) return &domain;
  }
  return nullptr;
}

}  // namespace

void assign_heads_first(std::span<const Task> tasks, std::span<const int> workers_per_domain,
                        PolicySpace& space, Assignment& result) {
  space.numbers.clear();
  Work work;
  // The runtime's tasks come group after group, apart from those of shared keys.
  std::size_t count = collect_runs(tasks, space, &work);
  if (count == 0 && !tasks.empty()) {
    tasks = order_by_group(tasks, space);
    work = {};
    count = collect_runs(tasks, space, &work);
  }
  result.lower_bound = makespan_bound(work, workers_per_domain);
  set_loads(workers_per_domain, space);
  if (tasks.empty() || space.domains.empty()) return begin_lists(workers_per_domain, space, result);

  const std::span<const CostItem> items = space.items.sort(count);  // costliest first
  space.domain_of_task.resize(tasks.size());
  const auto bound = static_cast<double>(result.lower_bound);
  const auto deal = [&](const GroupRun& run, std::int32_t i, double cost, DomainLoad* home) {
    DomainLoad& best =
        home && home->finish_with(cost) <= kSlack * bound ? *home : least_loaded(space.domains, cost);
    std::int32_t& domain = space.domain_of_group[run.first_group + i];
    if (best.finish_with(cost) <= kSlack * bound || run.tasks == 1) {
      best.load += cost;
      best.tasks += run.tasks;
      domain = best.domain;
    } else {
      share_out(cost, bound, space);
      deal_in_pieces(tasks, run.task(i), static_cast<std::size_t>(run.tasks), space);
      domain = kInPieces;
    }
  };
  const auto for_each_group = [&](auto visit) {
    for (const CostItem& item : items) {
      for (std::int32_t r = item.index; r < item.index + item.number; ++r) {
        const GroupRun& run = space.runs[r];
        for (std::int32_t i = 0; i < run.groups; ++i) visit(run, i, static_cast<double>(item.cost));
      }
    }
  };
  const auto home_of = [&](const GroupRun& run, std::int32_t i) {
    return find_home(space.domains, tasks[run.task(i)].home);
  };
  if (space.any_home) {
    for_each_group([&](const GroupRun& run, std::int32_t i, double cost) {
      if (DomainLoad* home = home_of(run, i)) deal(run, i, cost, home);
    });
  }
  for_each_group([&](const GroupRun& run, std::int32_t i, double cost) {
    if (!space.any_home || !home_of(run, i)) deal(run, i, cost, nullptr);
  });
  begin_lists(workers_per_domain, space, result);
  fill_lists(tasks, space, result);
}

}  // namespace kumiko::scheduler
