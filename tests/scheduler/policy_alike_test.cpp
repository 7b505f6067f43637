// SPDX-License-Identifier: Apache-2.0
// heads_first where groups are alike, as the heads of a sequence are: it sorts what they have in common.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "scheduler/list_schedule.h"
#include "scheduler/policy.h"
#include "tests/support/random.h"

namespace kumiko::scheduler {
namespace {

using test::Random;

/// Sequences of some heads, each in a few pieces; in some sequences a few heads have their last piece in two.
std::vector<Task> decodes(Random& random) {
  std::vector<Task> tasks;
  std::int32_t group = 0;
  for (std::int64_t left = random.between(1, 40); left > 0; --left) {
    std::vector<std::int64_t> pieces(static_cast<std::size_t>(random.between(1, 4)));
    for (std::int64_t& cost : pieces) cost = random.between(1, random.pick<std::int64_t>({2, 100000}));
    const bool has_fine = random.one_in(2);
    for (std::int64_t heads = random.pick<std::int64_t>({1, 2, 8}); heads > 0; --heads, ++group) {
      for (const std::int64_t cost : pieces) tasks.push_back({cost, group});
      if (!has_fine || !random.one_in(3)) continue;
      const std::int64_t half = tasks.back().cost / 2;
      tasks.back().cost -= half;
      tasks.push_back({half, group});
    }
  }
  return tasks;
}

Assignment assign(const std::vector<Task>& tasks, const std::vector<int>& workers) {
  return find_policy("heads_first")->assign(tasks, workers);
}

/// The same tasks, those of each group in their order; `numbers` are their numbers before.
std::vector<Task> mixed(const std::vector<Task>& tasks, Random& random, std::vector<std::int32_t>* numbers) {
  std::vector<std::uint64_t> keys(tasks.size());
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    keys[i] = random.bits() >> 8;
    if (i > 0 && tasks[i].group == tasks[i - 1].group) keys[i] = std::max(keys[i], keys[i - 1]);
  }
  numbers->resize(tasks.size());
  std::iota(numbers->begin(), numbers->end(), 0);
  std::stable_sort(numbers->begin(), numbers->end(), [&](std::int32_t a, std::int32_t b) {
    return keys[static_cast<std::size_t>(a)] < keys[static_cast<std::size_t>(b)];
  });
  std::vector<Task> result;
  for (const std::int32_t number : *numbers) result.push_back(tasks[static_cast<std::size_t>(number)]);
  return result;
}

TEST(HeadsFirst, ListsEachTaskOfGroupsThatAreAlikeOnce) {
  for (int i = 0; i < test::sweep_size(300); ++i) {
    const std::uint64_t seed = test::test_seed(6000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const std::vector<Task> tasks = decodes(random);
    const Assignment a = assign(tasks, random.one_in(2) ? std::vector<int>{2, 2} : std::vector<int>{3, 0, 1});
    std::vector<std::int32_t> all(tasks.size()), sorted = a.order;
    std::iota(all.begin(), all.end(), 0);
    std::sort(sorted.begin(), sorted.end());
    ASSERT_EQ(sorted, all);
    for (std::size_t d = 0; d + 1 < a.domain_begin.size(); ++d) {
      for (int k = a.domain_begin[d] + 1; k < a.domain_begin[d + 1]; ++k)
        ASSERT_GE(tasks[static_cast<std::size_t>(a.order[static_cast<std::size_t>(k) - 1])].cost,
                  tasks[static_cast<std::size_t>(a.order[static_cast<std::size_t>(k)])].cost);
    }
  }
}

TEST(HeadsFirst, DoesNotDependOnHowGroupsLie) {
  for (int i = 0; i < test::sweep_size(300); ++i) {
    const std::uint64_t seed = test::test_seed(7000) + static_cast<std::uint64_t>(i);
    SCOPED_TRACE("seed " + std::to_string(seed));
    Random random(seed);
    const std::vector<Task> tasks = decodes(random);
    std::vector<std::int32_t> numbers;
    const std::vector<Task> others = mixed(tasks, random, &numbers);
    const std::vector<int> workers = {4, 2, 2};
    const Assignment expected = assign(tasks, workers);
    Assignment got = assign(others, workers);
    for (std::int32_t& task : got.order) task = numbers[static_cast<std::size_t>(task)];
    EXPECT_EQ(got.order, expected.order);
    EXPECT_EQ(got.domain_begin, expected.domain_begin);
  }
}

// Row blocks of a prefill that cost the same: a worker goes on with the head whose keys it has.
TEST(HeadsFirst, OfEqualTasksThoseOfAHeadFollowOneAnother) {
  std::vector<Task> tasks;
  for (std::int32_t head = 0; head < 4; ++head) {
    for (int block = 0; block < 3; ++block) tasks.push_back({block == 1 ? 20 : 10, head});
  }
  const Assignment a = assign(tasks, {2});
  EXPECT_EQ(a.order, (std::vector<std::int32_t>{1, 4, 7, 10, 0, 2, 3, 5, 6, 8, 9, 11}));
}

}  // namespace
}  // namespace kumiko::scheduler
