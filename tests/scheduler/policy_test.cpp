// SPDX-License-Identifier: Apache-2.0
// Policies: what every one of them promises, over seeded machines and tasks, and what heads_first promises
// more.
#include "scheduler/policy.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>

#include "scheduler/list_schedule.h"
#include "tests/support/random.h"

namespace kumiko::scheduler {
namespace {

using test::Random;

int total(const std::vector<int>& workers) {
  return std::accumulate(workers.begin(), workers.end(), 0);
}

std::map<int, std::set<int>> domains_of_groups(const std::vector<Task>& tasks, const Assignment& a) {
  std::map<int, std::set<int>> result;
  for (std::size_t d = 0; d + 1 < a.domain_begin.size(); ++d) {
    for (int i = a.domain_begin[d]; i < a.domain_begin[d + 1]; ++i)
      result[tasks[a.order[i]].group].insert(static_cast<int>(d));
  }
  return result;
}

int groups_cut(const std::vector<Task>& tasks, const Assignment& a) {
  int cut = 0;
  for (const auto& [group, domains] : domains_of_groups(tasks, a)) cut += domains.size() > 1;
  return cut;
}

std::vector<int> random_machine(Random& random) {
  std::vector<int> workers;
  const int most = static_cast<int>(random.pick({1, 4, 12}));
  for (std::int64_t left = random.between(1, 8); left > 0; --left)
    workers.push_back(static_cast<int>(random.between(0, most)));
  if (total(workers) == 0)
    workers[static_cast<std::size_t>(random.between(0, static_cast<int>(workers.size()) - 1))] = 1;
  return workers;
}

std::vector<Task> random_tasks(Random& random) {
  std::vector<Task> tasks;
  const std::int64_t groups = random.between(1, 20);
  const std::int64_t most = random.pick<std::int64_t>({1, 10, 100000, std::int64_t{1} << 40});
  const bool is_sparse = random.one_in(4), has_homes = random.one_in(2);
  for (std::int64_t left = random.between(0, random.pick({3, 50, 700})); left > 0; --left) {
    const std::int64_t group = random.between(0, groups - 1);
    tasks.push_back({random.between(0, most),
                     static_cast<std::int32_t>(is_sparse ? group * 97000001 - 1000000000 : group),
                     static_cast<std::int32_t>(has_homes ? group * 7 % 11 - 1 : -1)});  // some are nowhere
  }
  return tasks;
}

// Straight from the contract's words, one worker at a time, with none of the library's data structures.
std::int64_t slow_makespan(const std::vector<Task>& tasks, const Assignment& a,
                           const std::vector<int>& workers) {
  struct Worker {
    std::int64_t free_at;
    int home;
  };
  std::vector<Worker> pool;
  for (std::size_t d = 0; d < workers.size(); ++d)
    pool.insert(pool.end(), static_cast<std::size_t>(workers[d]), {0, static_cast<int>(d)});
  std::vector<std::int32_t> next(a.domain_begin.begin(), a.domain_begin.end() - 1);
  std::int64_t makespan = 0;
  for (std::size_t done = 0; done < tasks.size(); ++done) {
    auto& worker =
        *std::min_element(pool.begin(), pool.end(), [](auto& x, auto& y) { return x.free_at < y.free_at; });
    std::size_t d = static_cast<std::size_t>(worker.home);
    while (next[d] == a.domain_begin[d + 1]) d = (d + 1) % workers.size();
    worker.free_at += tasks[a.order[next[d]++]].cost;
    makespan = std::max(makespan, worker.free_at);
  }
  return makespan;
}

std::int64_t makespan_of(const std::vector<Task>& tasks, const Assignment& a,
                         const std::vector<int>& workers) {
  return simulate_makespan(tasks, a, workers);
}

class Policy : public testing::TestWithParam<std::string> {
 protected:
  static Assignment assign(const std::vector<Task>& tasks, const std::vector<int>& workers) {
    return find_policy(GetParam())->assign(tasks, workers);
  }
};

TEST_P(Policy, ContractOverSeededSweep) {
  for (int i = 0; i < test::sweep_size(400); ++i) {
    const std::uint64_t seed = test::test_seed(1000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const std::vector<int> workers = random_machine(random);
    const std::vector<Task> tasks = random_tasks(random);
    const Assignment a = assign(tasks, workers);

    ASSERT_EQ(a.domain_begin.size(), workers.size() + 1);
    EXPECT_EQ(a.domain_begin.front(), 0);
    EXPECT_EQ(a.domain_begin.back(), static_cast<int>(tasks.size()));
    std::vector<std::int32_t> sorted = a.order;
    std::sort(sorted.begin(), sorted.end());
    std::vector<std::int32_t> all(tasks.size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(sorted, all) << "every task exactly once";

    std::int64_t sum = 0;
    std::int64_t costliest = 0;
    for (const Task& task : tasks) {
      sum += task.cost;
      costliest = std::max(costliest, task.cost);
    }
    const std::int64_t w = total(workers);
    EXPECT_EQ(a.lower_bound, std::max((sum + w - 1) / w, costliest));
    EXPECT_GE(makespan_of(tasks, a, workers), a.lower_bound);
    // Graham, 1966: nobody idles while a list holds a task, so no list order is worse than this.
    EXPECT_LE(makespan_of(tasks, a, workers), sum / w + costliest);
    EXPECT_EQ(makespan_of(tasks, a, workers), slow_makespan(tasks, a, workers));
    for (std::size_t d = 0; d < workers.size(); ++d) {
      ASSERT_LE(a.domain_begin[d], a.domain_begin[d + 1]);
      const bool is_empty = a.domain_begin[d] == a.domain_begin[d + 1];
      EXPECT_TRUE(workers[d] > 0 || is_empty) << "nobody sits in domain " << d;
      for (int k = a.domain_begin[d] + 1; k < a.domain_begin[d + 1]; ++k) {
        EXPECT_GE(tasks[a.order[k - 1]].cost, tasks[a.order[k]].cost) << "costliest first";
      }
    }
    const Assignment again = assign(tasks, workers);
    EXPECT_EQ(again.order, a.order);
    EXPECT_EQ(again.domain_begin, a.domain_begin);
  }
}

// A plan's updates make one assignment after the other in the same memory.
TEST_P(Policy, NothingOfAnEarlierProblemIsLeftInItsMemory) {
  PolicySpace space;
  Assignment result;
  for (int i = 0; i < test::sweep_size(200); ++i) {
    const std::uint64_t seed = test::test_seed(5000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const std::vector<int> workers = random_machine(random);
    const std::vector<Task> tasks = i % 10 == 9 ? std::vector<Task>{} : random_tasks(random);
    const Assignment fresh = assign(tasks, workers);
    find_policy(GetParam())->fill(tasks, workers, space, result);
    EXPECT_EQ(result.order, fresh.order);
    EXPECT_EQ(result.domain_begin, fresh.domain_begin);
    EXPECT_EQ(result.lower_bound, fresh.lower_bound);
    EXPECT_EQ(simulate_makespan(tasks, result, workers, space), makespan_of(tasks, fresh, workers));
  }
}

TEST_P(Policy, ManyTasksAreWithinThreePercentOfTheBound) {
  for (int i = 0; i < test::sweep_size(100); ++i) {
    const std::uint64_t seed = test::test_seed(2000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const std::vector<int> workers = random_machine(random);
    std::vector<Task> tasks;
    const std::int64_t groups = random.between(1, 24);
    for (int t = 0; t < 60 * total(workers); ++t) {
      tasks.push_back({random.between(1000, 4000), static_cast<std::int32_t>(random.between(0, groups - 1))});
    }
    const Assignment a = assign(tasks, workers);
    EXPECT_LE(static_cast<double>(makespan_of(tasks, a, workers)),
              1.03 * static_cast<double>(a.lower_bound) + 1);
    // Nor does the balance come from helping: each domain's own share is within 3 % and a task of its part.
    for (std::size_t d = 0; d < workers.size(); ++d) {
      std::int64_t load = 0;
      for (int k = a.domain_begin[d]; k < a.domain_begin[d + 1]; ++k) load += tasks[a.order[k]].cost;
      EXPECT_LE(static_cast<double>(load), 1.03 * static_cast<double>(a.lower_bound * workers[d]) + 4000);
    }
  }
}

TEST_P(Policy, NoTasksNoDomainsNoWorkers) {
  const Assignment none = assign({}, {2, 3});
  EXPECT_TRUE(none.order.empty());
  EXPECT_EQ(none.domain_begin, (std::vector<std::int32_t>{0, 0, 0}));
  EXPECT_EQ(makespan_of({}, none, {2, 3}), 0);
  EXPECT_EQ(none.lower_bound, 0);
  const std::vector<Task> tasks = {{5, 0}, {7, 1}};
  EXPECT_EQ(assign(tasks, {0, 0}).order.size(), 2u) << "nobody at all still loses no task";
  EXPECT_TRUE(assign(tasks, {}).order.empty());
}

TEST_P(Policy, FewTasksForManyWorkers) {
  const std::vector<Task> tasks = {{30, 0}, {20, 1}, {10, 2}};
  const std::vector<int> workers = {12, 12, 12, 12};
  const Assignment a = assign(tasks, workers);
  EXPECT_EQ(makespan_of(tasks, a, workers), 30);
  EXPECT_EQ(a.lower_bound, 30);
}

std::vector<std::string> names() {
  std::vector<std::string> result;
  for (const PolicyRow& row : policies()) result.emplace_back(row.name);
  return result;
}
INSTANTIATE_TEST_SUITE_P(Rows, Policy, testing::ValuesIn(names()), [](const auto& row) { return row.param; });

// `heads` KV heads of one causal prefill: row blocks whose cost rises with their position.
std::vector<Task> causal_prefill(int heads, int blocks) {
  std::vector<Task> tasks;
  for (int h = 0; h < heads; ++h) {
    for (int b = 0; b < blocks; ++b) tasks.push_back({64 * (b + 1), h});
  }
  return tasks;
}

TEST(HeadsFirst, IsTheDefault) {
  EXPECT_STREQ(policies().front().name, "heads_first");
  EXPECT_EQ(find_policy("nearest"), nullptr);
  EXPECT_EQ(find_policy(""), nullptr);
}

TEST(HeadsFirst, CutsNoHeadWhereHeadsDivideEvenly) {
  for (const auto& workers : {std::vector<int>{12, 12, 12, 12}, {8, 8}, {1, 1}, {4}}) {
    const std::vector<Task> tasks = causal_prefill(8, 64);
    const Assignment a = find_policy("heads_first")->assign(tasks, workers);
    EXPECT_EQ(groups_cut(tasks, a), 0);
    EXPECT_LE(static_cast<double>(makespan_of(tasks, a, workers)), 1.03 * static_cast<double>(a.lower_bound));
  }
}

TEST(HeadsFirst, TasksOfAGroupNeedNotFollowOneAnother) {
  for (const std::int32_t apart : {1, 1'000'000}) {  // numbers that are dense, and that are not
    std::vector<Task> tasks;
    for (const std::int32_t group : {0, 1, 2, 0, 1, 2, 3, 3}) tasks.push_back({10, group * apart});
    const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1});
    std::map<std::int32_t, std::set<int>> domains;
    for (int d = 0; d < 2; ++d) {
      for (int i = a.domain_begin[d]; i < a.domain_begin[d + 1]; ++i)
        domains[tasks[a.order[i]].group].insert(d);
    }
    for (const auto& [group, of_group] : domains) EXPECT_EQ(of_group.size(), 1u) << "group " << group;
  }
}

// Memory lies where it was put when the caches were made: lengths that change must not move a head.
TEST(HeadsFirst, HeadsGoWhereTheirMemoryIsWhileBalanceAllows) {
  std::vector<Task> tasks;
  for (std::int32_t head = 0; head < 16; ++head) {
    for (int i = 0; i < 12; ++i) tasks.push_back({100 + head / 4, head, 3 - head % 4});
  }
  for (const auto& [head, domains] :
       domains_of_groups(tasks, find_policy("heads_first")->assign(tasks, std::vector<int>{3, 3, 3, 3})))
    EXPECT_EQ(domains, std::set<int>{3 - head % 4}) << "head " << head;
  // Heads without a home fill what those with one leave.
  for (Task& task : tasks) task.home = task.group < 4 ? 2 : -1;
  const auto mixed =
      domains_of_groups(tasks, find_policy("heads_first")->assign(tasks, std::vector<int>{3, 3, 3, 3}));
  for (const auto& [head, domains] : mixed)
    EXPECT_EQ(domains.count(2), head < 4 ? 1u : 0u) << "head " << head;
}

TEST(HeadsFirst, BalanceComesBeforeAHome) {
  std::vector<Task> tasks;
  for (std::int32_t head = 0; head < 16; ++head) {
    for (int i = 0; i < 12; ++i) tasks.push_back({100, head, 1});
  }
  const std::vector<int> workers{3, 3, 3, 3};
  const Assignment a = find_policy("heads_first")->assign(tasks, workers);
  EXPECT_LE(static_cast<double>(makespan_of(tasks, a, workers)), 1.03 * static_cast<double>(a.lower_bound));
  int at_home = 0;
  for (const auto& [head, domains] : domains_of_groups(tasks, a)) at_home += domains == std::set<int>{1};
  EXPECT_EQ(at_home, 4);
}

TEST(HeadsFirst, DomainsTakeHeadsInProportionToTheirWorkers) {
  const std::vector<Task> tasks = causal_prefill(8, 64);
  const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{3, 0, 1});
  EXPECT_EQ(groups_cut(tasks, a), 0);
  EXPECT_EQ(a.domain_begin, (std::vector<std::int32_t>{0, 6 * 64, 6 * 64, 8 * 64}));
}

// Eight heads on three domains: two each whole, and only the last two cut.
TEST(HeadsFirst, CutsOnlyWhatBalanceNeeds) {
  const std::vector<Task> tasks = causal_prefill(8, 64);
  const std::vector<int> workers = {4, 4, 4};
  const Assignment a = find_policy("heads_first")->assign(tasks, workers);
  EXPECT_EQ(groups_cut(tasks, a), 2);
  EXPECT_LE(static_cast<double>(makespan_of(tasks, a, workers)), 1.03 * static_cast<double>(a.lower_bound));
}

TEST(HeadsFirst, OneHeadOnFourDomainsIsSpread) {
  const std::vector<Task> tasks = causal_prefill(1, 512);
  const std::vector<int> workers = {12, 12, 12, 12};
  const Assignment a = find_policy("heads_first")->assign(tasks, workers);
  EXPECT_EQ(domains_of_groups(tasks, a)[0].size(), 4u);
  EXPECT_LE(static_cast<double>(makespan_of(tasks, a, workers)), 1.03 * static_cast<double>(a.lower_bound));
}

TEST(HeadsFirst, CutsFewerHeadsThanFlat) {
  Random random(test::test_seed(7));
  std::vector<Task> tasks;
  for (int group = 0; group < 64 * 8; ++group) {
    for (std::int64_t left = random.between(1, 4); left > 0; --left)
      tasks.push_back({random.between(100, 4000), group});
  }
  const std::vector<int> workers = {12, 12, 12, 12};
  EXPECT_LE(groups_cut(tasks, find_policy("heads_first")->assign(tasks, workers)), 3);
  EXPECT_GT(groups_cut(tasks, find_policy("flat")->assign(tasks, workers)), 100);
}

// `count` tasks of cost 1 each.
void add_group(std::vector<Task>& tasks, std::int32_t group, int count) {
  for (int i = 0; i < count; ++i) tasks.push_back({1, group});
}

std::map<int, std::int64_t> cost_in_domains(const std::vector<Task>& tasks, const Assignment& a, int group) {
  std::map<int, std::int64_t> cost;
  for (std::size_t d = 0; d + 1 < a.domain_begin.size(); ++d) {
    for (int i = a.domain_begin[d]; i < a.domain_begin[d + 1]; ++i) {
      if (tasks[a.order[i]].group == group) cost[static_cast<int>(d)] += tasks[a.order[i]].cost;
    }
  }
  return cost;
}

// Room for 10, 20 and 40 is left when a group of 50 comes: the two roomiest take it, and no third.
TEST(HeadsFirst, AGroupThatIsCutGoesToTheFewestDomainsWithRoom) {
  std::vector<Task> tasks = {{90, 0}, {80, 1}, {60, 2}};
  add_group(tasks, 3, 50);
  add_group(tasks, 4, 20);
  const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1, 1});
  EXPECT_EQ(a.lower_bound, 100);
  EXPECT_EQ(cost_in_domains(tasks, a, 3), (std::map<int, std::int64_t>{{1, 10}, {2, 40}}));
  EXPECT_EQ(cost_in_domains(tasks, a, 4), (std::map<int, std::int64_t>{{0, 10}, {1, 10}}));
}

TEST(HeadsFirst, AGroupGoesWhereItWouldBeDoneFirst) {
  std::vector<Task> tasks;
  for (int group = 0; group < 9; ++group) tasks.push_back({10, group});
  const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{2, 3, 4});
  EXPECT_EQ(a.domain_begin, (std::vector<std::int32_t>{0, 2, 5, 9}));
}

TEST(HeadsFirst, AGroupIsNotCutForThreePercent) {
  std::vector<Task> tasks;
  add_group(tasks, 0, 103);
  add_group(tasks, 1, 97);
  EXPECT_EQ(groups_cut(tasks, find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1})), 0);
  add_group(tasks, 0, 1);
  tasks.erase(std::find_if(tasks.begin(), tasks.end(), [](const Task& task) { return task.group == 1; }));
  EXPECT_EQ(groups_cut(tasks, find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1})), 1);
}

TEST(HeadsFirst, CostlyGroupsAreDealtBeforeCheapOnes) {
  std::vector<Task> tasks;
  add_group(tasks, 0, 10);
  add_group(tasks, 1, 10);
  add_group(tasks, 2, 20);
  EXPECT_EQ(groups_cut(tasks, find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1})), 0);
}

TEST(HeadsFirst, EachPieceOfAGroupHasCostlyAndCheapTasks) {
  const std::vector<Task> tasks = {{1, 0}, {1, 0}, {1, 0}, {1, 0}, {4, 0}};
  const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1});
  EXPECT_EQ(cost_in_domains(tasks, a, 0), (std::map<int, std::int64_t>{{0, 4}, {1, 4}}));
}

// A home is a domain's number, not its place among those with workers; one without workers is none.
TEST(HeadsFirst, HomesAreDomainsOfTheMachine) {
  const std::vector<Task> tasks = {{10, 0, 2}, {10, 1, 1}, {10, 2, 0}, {10, 3, 1}};
  const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{0, 2, 2});
  EXPECT_EQ(domains_of_groups(tasks, a),
            (std::map<int, std::set<int>>{{0, {2}}, {1, {1}}, {2, {2}}, {3, {1}}}));
}

TEST(HeadsFirst, ANegativeCostIsNone) {
  const std::vector<Task> tasks = {{-50, 0}, {60, 0}, {50, 1}};
  const Assignment a = find_policy("heads_first")->assign(tasks, std::vector<int>{1, 1});
  EXPECT_EQ(domains_of_groups(tasks, a), (std::map<int, std::set<int>>{{0, {0}}, {1, {1}}}));
}

TEST(Flat, CostlyTasksAreDealtBeforeCheapOnes) {
  const std::vector<Task> tasks = {{1, 0}, {1, 0}, {2, 0}};
  const Assignment a = find_policy("flat")->assign(tasks, std::vector<int>{1, 1});
  EXPECT_EQ(a.order, (std::vector<std::int32_t>{2, 0, 1}));
  EXPECT_EQ(a.domain_begin, (std::vector<std::int32_t>{0, 1, 3}));
}

TEST(Flat, ATaskIsInTheListOfTheDomainThatTakesIt) {
  const std::vector<Task> tasks = {{5, 0}, {4, 0}, {3, 0}, {2, 0}};
  const Assignment a = find_policy("flat")->assign(tasks, std::vector<int>{1, 1});
  EXPECT_EQ(a.order, (std::vector<std::int32_t>{0, 3, 1, 2}));
  EXPECT_EQ(a.domain_begin, (std::vector<std::int32_t>{0, 2, 4}));
}

TEST(LeastLoaded, TheFirstOfThoseDoneFirst) {
  const std::vector<int> workers = {1, 2, 0, 1};
  PolicySpace space;
  set_loads(workers, space);
  std::vector<DomainLoad>& domains = space.domains;
  ASSERT_EQ(domains.size(), 3u);
  domains[0].load = 5;
  domains[1].load = 2;
  domains[2].load = 1;
  EXPECT_EQ(least_loaded(domains, 6).domain, 1) << "11, 8 halved, 7";
  EXPECT_EQ(least_loaded(domains, 0).domain, 1) << "5, 2 halved, 1: the first of equals";
  EXPECT_EQ(least_loaded(std::span(domains).first(1), 1).domain, 0);
  domains[1].load = 100;
  EXPECT_EQ(least_loaded(domains, 1).domain, 3);
}

// Two workers and one: equals in time by number, and who has no more of its own takes the next domain's.
TEST(SimulateSchedule, SaysWhoDoesWhatWhen) {
  const std::vector<Task> tasks = {{5, 0}, {5, 0}, {5, 0}, {2, 0}, {1, 0}, {1, 0}};
  const std::vector<int> workers = {2, 1};
  const Assignment assignment{{0, 1, 2, 3, 4, 5}, {0, 3, 6}, 0};
  std::vector<std::vector<std::int64_t>> rows;
  for (const SimulatedTask& row : simulate_schedule(tasks, assignment, workers))
    rows.push_back({row.task, row.worker, row.begin, row.end});
  EXPECT_EQ(rows, (std::vector<std::vector<std::int64_t>>{
                      {0, 0, 0, 5}, {1, 1, 0, 5}, {3, 2, 0, 2}, {4, 2, 2, 3}, {5, 2, 3, 4}, {2, 2, 4, 9}}));
  const std::vector<Task> equals(4, {5, 0});
  const Assignment one_list{{0, 1, 2, 3}, {0, 4}, 0};
  rows.clear();
  for (const SimulatedTask& row : simulate_schedule(equals, one_list, std::vector<int>{3}))
    rows.push_back({row.task, row.worker, row.begin, row.end});
  EXPECT_EQ(rows, (std::vector<std::vector<std::int64_t>>{
                      {0, 0, 0, 5}, {1, 1, 0, 5}, {2, 2, 0, 5}, {3, 0, 5, 10}}));
}

TEST(CostItems, SortIsStableAndExact) {
  for (int i = 0; i < test::sweep_size(200); ++i) {
    const std::uint64_t seed = test::test_seed(3000) + static_cast<std::uint64_t>(i);
    Random random(seed);
    const int shift = static_cast<int>(random.between(1, 63)),
              low = static_cast<int>(random.between(0, shift - 1));
    CostItems memory;
    const std::span<CostItem> items =
        memory.of(static_cast<std::size_t>(random.between(0, i % 2 ? 600 : 40)));
    for (std::size_t k = 0; k < items.size(); ++k) {
      items[k] = {static_cast<std::int64_t>(random.bits() >> shift << low), static_cast<std::int32_t>(k), 0};
    }
    std::vector<CostItem> expected(items.begin(), items.end());
    std::stable_sort(expected.begin(), expected.end(),
                     [](const CostItem& a, const CostItem& b) { return a.cost > b.cost; });
    const std::span<const CostItem> sorted = memory.sort(items.size());
    const auto same = [](const CostItem& a, const CostItem& b) {
      return a.cost == b.cost && a.index == b.index;
    };
    EXPECT_TRUE(std::equal(sorted.begin(), sorted.end(), expected.begin(), expected.end(), same))
        << "seed " << seed;
  }
}

}  // namespace
}  // namespace kumiko::scheduler
