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

struct Groups {
  std::vector<std::int32_t> begin;    // Group g's tasks are sequence[begin[g], begin[g + 1]).
  std::vector<std::int32_t> members;  // Task numbers, group after group, within a group in task order.
};

// Counting sort when group numbers are dense, as the runtime's are; otherwise a comparison sort.
Groups collect_groups(std::span<const Task> tasks) {
  Groups groups;
  const std::size_t n = tasks.size();
  std::int32_t low = tasks[0].group;
  std::int32_t high = low;
  for (const Task& task : tasks) {
    low = std::min(low, task.group);
    high = std::max(high, task.group);
  }
  const std::int64_t range = std::int64_t{high} - low + 1;
  groups.members.resize(n);
  if (range <= static_cast<std::int64_t>(4 * n + 64)) {
    std::vector<std::int32_t> count(static_cast<std::size_t>(range) + 1, 0);
    for (const Task& task : tasks) ++count[task.group - low + 1];
    groups.begin.reserve(std::min(n, static_cast<std::size_t>(range)) + 1);
    for (std::size_t g = 0; g < static_cast<std::size_t>(range); ++g) {
      if (count[g + 1] > 0) groups.begin.push_back(count[g]);
      count[g + 1] += count[g];
    }
    for (std::size_t i = 0; i < n; ++i)
      groups.members[count[tasks[i].group - low]++] = static_cast<std::int32_t>(i);
  } else {
    std::iota(groups.members.begin(), groups.members.end(), 0);
    std::stable_sort(groups.members.begin(), groups.members.end(),
                     [&](std::int32_t a, std::int32_t b) { return tasks[a].group < tasks[b].group; });
    for (std::size_t i = 0; i < n; ++i) {
      const bool is_first = i == 0 || tasks[groups.members[i]].group != tasks[groups.members[i - 1]].group;
      if (is_first) groups.begin.push_back(static_cast<std::int32_t>(i));
    }
  }
  groups.begin.push_back(static_cast<std::int32_t>(n));
  return groups;
}

struct Share {
  DomainLoad* domain;
  double quota;  // The part of the group's cost that this domain should take.
  double taken = 0;
};

// The domains with the most room below a perfect balance, as few as can take `cost` together. The sum of all
// rooms covers whatever is not assigned yet, apart from rounding where costs add up to more than 2^53: then a
// domain without room may be reached, with the quota 0, which any task exceeds.
std::vector<Share> share_out(double cost, double bound, std::span<DomainLoad> domains) {
  std::vector<Share> shares;
  for (DomainLoad& domain : domains)
    shares.push_back({&domain, std::max(bound * domain.workers - domain.load, 0.0)});
  std::stable_sort(shares.begin(), shares.end(),
                   [](const Share& a, const Share& b) { return a.quota > b.quota; });
  double left = cost;
  std::size_t used = 0;
  for (; used < shares.size() && left > 0; ++used) {
    shares[used].quota = std::min(shares[used].quota, left);
    left -= shares[used].quota;
  }
  shares.resize(used);
  return shares;
}

// Splits a group that fits into no domain whole. It does not matter which of its tasks stay together, as all
// read the same head. So each domain gets costly and cheap tasks alike, which its workers can balance.
void deal_in_pieces(std::span<const Task> tasks, std::span<const std::int32_t> members,
                    std::vector<Share> shares, std::span<std::int32_t> domain_of_task) {
  std::vector<CostItem> items(2 * members.size());
  const std::span<CostItem> sorted = std::span(items).first(members.size());
  for (std::size_t i = 0; i < members.size(); ++i) {
    items[i] = {std::max<std::int64_t>(tasks[members[i]].cost, 0), members[i]};
  }
  sort_costliest_first(sorted, std::span(items).subspan(members.size()));
  for (const CostItem& item : sorted) {
    const auto cost = static_cast<double>(item.cost);
    const auto filled = [cost](const Share& share) { return (share.taken + cost) / share.quota; };
    Share& taker = *std::min_element(shares.begin(), shares.end(),
                                     [&](const Share& a, const Share& b) { return filled(a) < filled(b); });
    taker.taken += cost;
    taker.domain->load += cost;
    domain_of_task[item.index] = taker.domain->domain;
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

Assignment assign_heads_first(std::span<const Task> tasks, std::span<const int> workers_per_domain) {
  std::vector<DomainLoad> domains = loads_of(workers_per_domain);
  std::vector<std::int32_t> domain_of_task(tasks.size(), 0);
  if (tasks.empty() || domains.empty())
    return finish_assignment(tasks, {}, domain_of_task, workers_per_domain);

  const Groups groups = collect_groups(tasks);
  const std::size_t num_groups = groups.begin.size() - 1;
  std::vector<CostItem> order(2 * num_groups);
  for (std::size_t g = 0; g < num_groups; ++g) {
    std::int64_t cost = 0;
    for (std::int32_t i = groups.begin[g]; i < groups.begin[g + 1]; ++i) {
      cost += std::max<std::int64_t>(tasks[groups.members[i]].cost, 0);
    }
    order[g] = {cost, static_cast<std::int32_t>(g)};
  }
  const std::span<CostItem> items(order);
  sort_costliest_first(items.first(num_groups), items.subspan(num_groups));

  const auto bound = static_cast<double>(makespan_bound(tasks, workers_per_domain));
  std::vector<std::int32_t> sequence;
  sequence.reserve(tasks.size());
  const auto deal = [&](const CostItem& group, DomainLoad* home) {
    const auto members =
        std::span(groups.members)
            .subspan(groups.begin[group.index], groups.begin[group.index + 1] - groups.begin[group.index]);
    const auto cost = static_cast<double>(group.cost);
    DomainLoad& best =
        home && home->finish_with(cost) <= kSlack * bound ? *home : least_loaded(domains, cost);
    if (best.finish_with(cost) <= kSlack * bound || members.size() == 1) {
      best.load += cost;
      for (const std::int32_t task : members) domain_of_task[task] = best.domain;
    } else {
      deal_in_pieces(tasks, members, share_out(cost, bound, domains), domain_of_task);
    }
    sequence.insert(sequence.end(), members.begin(), members.end());
  };
  const auto home_of = [&](const CostItem& group) {
    return find_home(domains, tasks[groups.members[groups.begin[group.index]]].home);
  };
  const bool any_home = std::any_of(tasks.begin(), tasks.end(), [](const Task& t) { return t.home >= 0; });
  if (any_home) {
    for (const CostItem& group : items.first(num_groups)) {
      if (DomainLoad* home = home_of(group)) deal(group, home);
    }
  }
  for (const CostItem& group : items.first(num_groups)) {
    if (!any_home || !home_of(group)) deal(group, nullptr);
  }
  return finish_assignment(tasks, sequence, domain_of_task, workers_per_domain);
}

}  // namespace kumiko::scheduler
