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

// Sets space.members to the task numbers, group after group and within a group in task order. The runtime's
// tasks come in this order, apart from those of shared keys. Else a counting sort where group numbers are
// dense, and a comparison sort where not.
void order_by_group(std::span<const Task> tasks, PolicySpace& space) {
  const std::size_t n = tasks.size();
  std::int32_t low = tasks[0].group, high = low;
  bool in_order = true;
  for (std::size_t i = 1; i < n; ++i) {
    low = std::min(low, tasks[i].group);
    high = std::max(high, tasks[i].group);
    in_order &= tasks[i - 1].group <= tasks[i].group;
  }
  const std::int64_t range = std::int64_t{high} - low + 1;
  std::vector<std::int32_t>& members = space.members;
  members.resize(n);
  if (in_order) {
    std::iota(members.begin(), members.end(), 0);
  } else if (range <= static_cast<std::int64_t>(4 * n + 64)) {
    std::vector<std::int32_t>& place = space.in_group;
    place.assign(static_cast<std::size_t>(range) + 1, 0);
    for (const Task& task : tasks) ++place[task.group - low + 1];
    for (std::size_t g = 0; g < static_cast<std::size_t>(range); ++g) place[g + 1] += place[g];
    for (std::size_t i = 0; i < n; ++i) members[place[tasks[i].group - low]++] = static_cast<std::int32_t>(i);
  } else {
    std::iota(members.begin(), members.end(), 0);
    // Not std::stable_sort, which allocates.
    std::sort(members.begin(), members.end(), [&](std::int32_t a, std::int32_t b) {
      return tasks[a].group != tasks[b].group ? tasks[a].group < tasks[b].group : a < b;
    });
  }
}

// Group g's tasks are members[group_begin[g], group_begin[g + 1]). Returns items of space.items: groups
// `index` to `index + number` - 1 of one cost, such as the heads of a sequence; costliest first.
std::span<const CostItem> collect_groups(std::span<const Task> tasks, PolicySpace& space) {
  order_by_group(tasks, space);
  const std::span<const std::int32_t> members = space.members;
  const std::span<CostItem> items = space.items.of(tasks.size());
  std::size_t num_items = 0;
  space.group_begin.clear();
  for (std::size_t i = 0; i < members.size();) {
    const auto group_number = static_cast<std::int32_t>(space.group_begin.size());
    space.group_begin.push_back(static_cast<std::int32_t>(i));
    const std::int32_t group = tasks[members[i]].group;
    std::int64_t cost = 0;
    do {
      cost += std::max<std::int64_t>(tasks[members[i]].cost, 0);
    } while (++i < members.size() && tasks[members[i]].group == group);
    if (num_items > 0 && items[num_items - 1].cost == cost) {
      ++items[num_items - 1].number;
    } else {
      items[num_items++] = {cost, group_number, 1};
    }
  }
  space.group_begin.push_back(static_cast<std::int32_t>(members.size()));
  return space.items.sort(num_items);
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

// Deals a group that fits into no domain whole among space.shares. It does not matter which of its tasks stay
// together, as all read the same head. So each domain gets costly and cheap tasks alike, which its workers
// can balance.
void deal_in_pieces(std::span<const Task> tasks, std::span<const std::int32_t> members, PolicySpace& space) {
  const std::span<CostItem> items = space.pieces.of(members.size());
  for (std::size_t i = 0; i < members.size(); ++i) {
    items[i] = {std::max<std::int64_t>(tasks[members[i]].cost, 0), members[i], 0};
  }
  for (const CostItem& item : space.pieces.sort(members.size())) {
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
  set_loads(tasks, workers_per_domain, space);
  space.domain_of_task.assign(tasks.size(), 0);
  space.sequence.clear();
  if (tasks.empty() || space.domains.empty())
    return finish_assignment(tasks, workers_per_domain, space, result);

  const std::span<const CostItem> items = collect_groups(tasks, space);
  const std::span<const std::int32_t> group_begin = space.group_begin, all_members = space.members;
  const auto bound = static_cast<double>(space.lower_bound);
  space.sequence.resize(tasks.size());
  std::int32_t* next = space.sequence.data();
  const auto deal = [&](std::int32_t group, std::int64_t group_cost, DomainLoad* home) {
    const auto members = all_members.subspan(group_begin[group], group_begin[group + 1] - group_begin[group]);
    const auto cost = static_cast<double>(group_cost);
    DomainLoad& best =
        home && home->finish_with(cost) <= kSlack * bound ? *home : least_loaded(space.domains, cost);
    if (best.finish_with(cost) <= kSlack * bound || members.size() == 1) {
      best.load += cost;
      best.tasks += static_cast<std::int32_t>(members.size());
      for (const std::int32_t task : members) space.domain_of_task[task] = best.domain;
    } else {
      share_out(cost, bound, space);
      deal_in_pieces(tasks, members, space);
    }
    for (const std::int32_t task : members) *next++ = task;
  };
  const auto home_of = [&](std::int32_t group) {
    return find_home(space.domains, tasks[all_members[group_begin[group]]].home);
  };
  const auto for_each_group = [&](auto visit) {
    for (const CostItem& item : items) {
      for (std::int32_t group = item.index; group < item.index + item.number; ++group)
        visit(group, item.cost);
    }
  };
  const bool any_home = std::any_of(tasks.begin(), tasks.end(), [](const Task& t) { return t.home >= 0; });
  if (any_home) {
    for_each_group([&](std::int32_t group, std::int64_t cost) {
      if (DomainLoad* home = home_of(group)) deal(group, cost, home);
    });
  }
  for_each_group([&](std::int32_t group, std::int64_t cost) {
    if (!any_home || !home_of(group)) deal(group, cost, nullptr);
  });
  finish_assignment(tasks, workers_per_domain, space, result);
}

}  // namespace kumiko::scheduler
