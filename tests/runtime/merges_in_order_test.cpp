// SPDX-License-Identifier: Apache-2.0
// States that are merged as they come: every task once, in the order of their splits, whoever ends when.
#include "runtime/merges_in_order.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <thread>
#include <vector>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"
#include "tests/support/bits.h"

namespace kumiko::test {
namespace {

std::vector<std::int32_t> in_random_order(std::int32_t tasks, Random& random) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(tasks));
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = order.size(); i > 1; --i)
    std::swap(order[i - 1],
              order[static_cast<std::size_t>(random.between(0, static_cast<std::int64_t>(i) - 1))]);
  return order;
}

TEST(MergesInOrder, EachTaskMergesAllWhoseTurnItIs) {
  Random random{test_seed(117)};
  for (const std::int32_t tasks : {1, 2, 7, MergesInOrder::kMostTasks}) {
    std::atomic<std::uint64_t> word{0};
    std::vector<bool> ended(static_cast<std::size_t>(tasks));
    std::int32_t next = 0;
    for (const std::int32_t i : in_random_order(tasks, random)) {
      ended[static_cast<std::size_t>(i)] = true;
      MergesInOrder(word).end_task(i, [&](std::int32_t first, std::int32_t last) {
        ASSERT_EQ(first, next);
        ASSERT_LT(first, last);
        ASSERT_TRUE(std::all_of(ended.begin() + first, ended.begin() + last, [](bool b) { return b; }));
        next = last;
      });
      // Nothing whose turn it is waits for another task.
      ASSERT_TRUE(next == tasks || !ended[static_cast<std::size_t>(next)]);
    }
    ASSERT_EQ(next, tasks);
  }
}

// A task that ends while another merges leaves its states to that one.
TEST(MergesInOrder, WhoMergesGoesOnWithWhatEndedMeanwhile) {
  std::atomic<std::uint64_t> word{0};
  std::vector<std::int32_t> ends;
  const auto add = [&](std::int32_t, std::int32_t last) { ends.push_back(last); };
  MergesInOrder(word).end_task(0, [&](std::int32_t, std::int32_t last) {
    ends.push_back(last);
    if (last == 1) {
      MergesInOrder(word).end_task(2, add);
      EXPECT_EQ(ends.size(), 1u);
      MergesInOrder(word).end_task(1, add);
      EXPECT_EQ(ends.size(), 1u);
    }
  });
  EXPECT_EQ(ends, (std::vector<std::int32_t>{1, 3}));
}

// Plain memory, so that ThreadSanitizer sees whether what is merged is handed over.
TEST(MergesInOrder, ThreadsHandOverWhatTheyStored) {
  constexpr std::int32_t kTasks = 48, kThreads = 4;
  Random random{test_seed(118)};
  for (int repeat = 0; repeat < thinned(200, 20, 20); ++repeat) {
    const std::vector<std::int32_t> order = in_random_order(kTasks, random);
    std::atomic<std::uint64_t> word{0};
    std::atomic<std::int32_t> waiting{kThreads};  // relaxed, as `taken`: neither orders what is merged
    std::atomic<std::int32_t> taken{0};
    std::vector<std::int32_t> stored(kTasks, -1), merged;
    merged.reserve(kTasks);
    const auto work = [&] {
      waiting.fetch_sub(1, std::memory_order_relaxed);
      while (waiting.load(std::memory_order_relaxed) > 0) std::this_thread::yield();
      const auto take = [&] { return taken.fetch_add(1, std::memory_order_relaxed); };
      for (std::int32_t at = take(); at < kTasks; at = take()) {
        const std::int32_t i = order[static_cast<std::size_t>(at)];
        stored[static_cast<std::size_t>(i)] = 3 * i;
        MergesInOrder(word).end_task(i, [&](std::int32_t first, std::int32_t last) {
          std::this_thread::yield();  // so that others end meanwhile
          for (std::int32_t k = first; k < last; ++k) merged.push_back(stored[static_cast<std::size_t>(k)]);
        });
      }
    };
    std::vector<std::thread> threads;
    for (std::int32_t t = 0; t < kThreads; ++t) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    ASSERT_EQ(merged.size(), static_cast<std::size_t>(kTasks));
    for (std::int32_t k = 0; k < kTasks; ++k) ASSERT_EQ(merged[static_cast<std::size_t>(k)], 3 * k);
  }
}

struct MergedAsTheyCome : testing::TestWithParam<std::string> {};

// Rows with states of 64 KiB and more a split, and the same rows on one core, which merges in its tiles.
TEST_P(MergedAsTheyCome, RowsHaveTheBitsOfOneCore) {
  const std::vector<Context> contexts = contexts_of(GetParam());
  Case c;
  c.q_heads = 64, c.q_len = 1, c.kv_len = thinned(3000, 1500, 1500);
  c.head_dim = 8, c.v_head_dim = 520;
  c.is_causal = true, c.row_max = GuardedLse::Layout::contiguous;
  int in_order = 0;
  for (const bool sinks : {false, true}) {
    c.sinks = sinks;
    const Problem problem(c);
    const Outcome want = problem.run(contexts[0]);
    for (std::size_t i = 1; i < contexts.size(); ++i) {
      Plan made;
      ASSERT_TRUE(plan(contexts[i], problem.args(), &made).ok());
      const std::vector<PlannedMerge>& merges = impl_of(made)->partition.merges;
      ASSERT_FALSE(merges.empty());
      for (const PlannedMerge& merge : merges) {
        const std::int64_t floats = (merge.row_end - merge.row_begin) * (c.v_head_dim + 2);
        ASSERT_EQ(merge.in_order >= 0, floats >= 16384);
        in_order += merge.in_order >= 0;
      }
      for (int run = 0; run < (kEmulated ? 1 : 3); ++run)
        ASSERT_TRUE(same_bits(problem.run(contexts[i]), want)) << run;
    }
  }
  EXPECT_GT(in_order, 0);
}

// Small states are merged at the end: the bookkeeping is for those that take time.
TEST(MergesInOrder, OnlyWhereStatesAreLarge) {
  Case c;
  c.q_heads = 32, c.q_len = 1, c.kv_len = 2048, c.head_dim = c.v_head_dim = 64, c.is_causal = true;
  const Problem problem(c);
  Plan made;
  ASSERT_TRUE(plan(own_context("openmp", 2), problem.args(), &made).ok());
  ASSERT_FALSE(impl_of(made)->partition.merges.empty());
  for (const PlannedMerge& merge : impl_of(made)->partition.merges) EXPECT_EQ(merge.in_order, -1);
}

INSTANTIATE_TEST_SUITE_P(Isas, MergedAsTheyCome, testing::ValuesIn(swept_isas()), StringName());

}  // namespace
}  // namespace kumiko::test
