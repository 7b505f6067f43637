// SPDX-License-Identifier: Apache-2.0
// Which blocks travel to whom: every key that a row sees, once, in ascending order, and nothing else. No MPI.
#include "distributed/block_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "tests/support/random.h"

namespace kumiko::distributed {
namespace {

/// Whether one of the rank's rows of the sequence sees a key of the split, row by row.
bool sees(const BlockPlan& plan, const Reach& reach, int rank, const Split& split) {
  const auto b = static_cast<std::size_t>(split.sequence);
  const auto& [q_len, kv_len] = plan.work().sequences[b];
  const std::int64_t first = split.number * 512, last = std::min(first + 512, kv_len) - 1;
  for (const Interval& rows : plan.query_rows(b, rank)) {
    for (std::int64_t i = rows.begin; i < rows.end; ++i) {
      const std::int64_t at = i + (reach.is_top_left ? 0 : kv_len - q_len),
                         right = reach.is_causal ? 0 : reach.window_right;
      const bool is_behind = right >= 0 && at + right < first,
                 is_before = reach.window_left >= 0 && at - reach.window_left > last;
      if (!is_behind && !is_before) return true;
    }
  }
  return false;
}

TEST(BlockPlan, BringsEachKeyToWhoSeesItAndToNobodyElse) {
  test::Random random(test::test_seed(99));
  for (int repeat = 0; repeat < 60; ++repeat) {
    Work work;
    for (std::int64_t i = random.between(1, 3); i > 0; --i) {
      const std::int64_t kv_len = random.between(0, 6000);
      work.sequences.push_back({random.one_in(2) ? kv_len : random.between(0, 700), kv_len});
    }
    work.distribution = random.pick({Distribution::contiguous, Distribution::zigzag, Distribution::cyclic});
    work.block_keys = random.pick({512, 1024, 2048});
    Reach reach;
    reach.is_causal = random.one_in(2), reach.is_top_left = random.one_in(3);
    reach.window_left = random.pick({-1, -1, 0, 700, 2000}), reach.window_right = random.pick({-1, 3, 600});
    const int ranks = static_cast<int>(random.between(1, 7));
    const BlockPlan plan(work, reach, ranks);
    std::set<std::pair<std::int32_t, std::int64_t>> listed;
    std::int64_t end = 0;
    for (const Step& step : plan.steps()) {
      EXPECT_EQ(step.split_begin, end);
      end = step.split_end;
      std::int64_t pages = 0;
      for (const Message& message : step.messages) {
        EXPECT_EQ(message.first_page, pages);
        pages += static_cast<std::int64_t>(message.splits.size());
        const int owner = message.members.front();
        for (const Split& split : message.splits) {
          EXPECT_TRUE(listed.insert({split.sequence, split.number}).second);
          EXPECT_TRUE(split.number >= step.split_begin && split.number < step.split_end);
          const auto& keys = plan.key_rows(static_cast<std::size_t>(split.sequence), owner);
          EXPECT_TRUE(std::any_of(keys.begin(), keys.end(), [&](const Interval& part) {
            return split.number * 512 >= part.begin && split.number * 512 < part.end;
          }));
        }
        std::set<int> members(message.members.begin(), message.members.end());
        EXPECT_EQ(members.size(), message.members.size());
        for (int rank = 0; rank < ranks; ++rank) {
          const bool needs = std::any_of(message.splits.begin(), message.splits.end(),
                                         [&](const Split& split) { return sees(plan, reach, rank, split); });
          EXPECT_EQ(members.count(rank) == 1, needs || rank == owner) << "rank " << rank;
          EXPECT_TRUE(!needs || step.computes[static_cast<std::size_t>(rank)]);
        }
      }
      EXPECT_LE(pages, plan.most_pages());
    }
    std::size_t splits = 0;
    for (const SequenceLengths& lengths : work.sequences)
      splits += static_cast<std::size_t>((lengths.kv_len + 511) / 512);
    EXPECT_EQ(listed.size(), splits);
  }
}

TEST(BlockPlan, GivesEachRowAndKeyToOneRank) {
  test::Random random(test::test_seed(100));
  for (int repeat = 0; repeat < 60; ++repeat) {
    Work work;
    work.sequences = {{random.between(0, 9000), random.between(0, 9000)}};
    work.distribution = random.pick({Distribution::contiguous, Distribution::zigzag, Distribution::cyclic});
    const int ranks = static_cast<int>(random.between(1, 9));
    const BlockPlan plan(work, {}, ranks);
    std::vector<Interval> queries, keys;
    for (int rank = 0; rank < ranks; ++rank) {
      std::int64_t place = 0;
      for (const Interval& part : plan.key_rows(0, rank)) {
        EXPECT_EQ(plan.place_of_key(0, rank, part.begin), place);
        place += part.size();
        keys.push_back(part);
      }
      queries.insert(queries.end(), plan.query_rows(0, rank).begin(), plan.query_rows(0, rank).end());
    }
    for (auto& [parts, length] :
         {std::pair<std::vector<Interval>&, std::int64_t>{queries, work.sequences[0].q_len},
          {keys, work.sequences[0].kv_len}}) {
      std::sort(parts.begin(), parts.end(),
                [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
      std::int64_t end = 0;
      for (const Interval& part : parts) {
        EXPECT_EQ(part.begin, end);
        EXPECT_TRUE(part.end == length || part.end % 512 == 0);
        end = part.end;
      }
      EXPECT_EQ(end, length);
    }
  }
}

}  // namespace
}  // namespace kumiko::distributed
