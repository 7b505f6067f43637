// SPDX-License-Identifier: Apache-2.0
// Partitions: how a problem is cut into tasks.
#include <gtest/gtest.h>

#include <array>
#include <map>
#include <numeric>
#include <set>
#include <span>
#include <tuple>
#include <utility>
#include <vector>

#include "runtime/plan.h"
#include "tests/runtime/case.h"
#include "tests/runtime/contexts.h"

namespace kumiko::test {
namespace {

// Rows of which each block would pack all keys stay together where the keys divide the work.
TEST(Partition, FewRowsOverManyKeysAreCutAlongTheKeys) {
  Case c;
  // Two tiles and a part, whatever a tile has: 128 rows with AVX-512, 64 with AVX2.
  c.q_heads = static_cast<int>(kernels::kernel_set(impl_of(context_of({}))->isa, {})->max_nr * 8 / 3);
  c.kv_heads = 1;
  c.q_len = 1;
  c.head_dim = c.v_head_dim = 16;
  for (const auto& [threads, keys, whole] :
       {std::tuple(2, 4096, true), {4, 4096, true}, {7, 4096, false}, {2, 500, false}}) {
    c.kv_len = keys;
    ContextOptions options;
    options.topology = flat_machine(threads);
    const Problem problem(c);
    Plan made;
    ASSERT_TRUE(plan(context_of(options), problem.args(), &made).ok());
    const std::span<const PlannedTask> tasks = impl_of(made)->partition.tasks;
    for (const PlannedTask& task : tasks)
      EXPECT_EQ(task.row_end - task.row_begin == c.q_heads, whole)
          << threads << " threads, " << keys << " keys";
    if (whole) {
      EXPECT_EQ(std::ssize(tasks), 8);
    }
  }
}

constexpr std::int32_t kSequences = 24, kHeads = 8;

/// 24 sequences of 200 to 4000 keys; heads lie one after another, or side by side.
AttentionArgs decode_of(const std::vector<std::int32_t>& lengths, bool side_by_side) {
  AttentionArgs args;
  args.q = ConstTensor::bhsd(nullptr, kSequences, 4 * kHeads, 1, 128);
  args.k = args.v = side_by_side ? ConstTensor::bshd(nullptr, kSequences, 4096, kHeads, 128)
                                 : ConstTensor::bhsd(nullptr, kSequences, kHeads, 4096, 128);
  args.out = Tensor::bhsd(nullptr, kSequences, 4 * kHeads, 1, 128);
  args.seqused_k = lengths.data();
  return args;
}

std::vector<std::int32_t> some_lengths() {
  std::vector<std::int32_t> lengths;
  for (std::int32_t b = 0; b < kSequences; ++b) lengths.push_back(200 + b * 2339 % 3801);
  return lengths;
}

/// A task's splits and its cost a head.
using Piece = std::array<std::int64_t, 3>;
/// Of each task that begins with a head, by {sequence, head}.
using Pieces = std::map<std::pair<std::int32_t, std::int32_t>, std::vector<Piece>>;

Pieces pieces_of(const Partition& partition) {
  Pieces pieces;
  std::map<std::int32_t, int> heads_of;  // by sequence
  for (std::size_t i = 0; i < partition.tasks.size(); ++i) {
    const PlannedTask& task = partition.tasks[i];
    EXPECT_EQ(partition.costs[i].cost % task.heads, 0);
    EXPECT_EQ(partition.costs[i].group, task.batch * kHeads + task.kv_head);
    pieces[{task.batch, task.kv_head}].push_back(
        {task.split_begin, task.split_end, partition.costs[i].cost / task.heads});
    if (task.split_begin == 0) heads_of[task.batch] += task.heads;
  }
  for (const auto& [b, heads] : heads_of) EXPECT_EQ(heads, kHeads) << "of sequence " << b;
  return pieces;
}

/// Every head's tasks have all its splits, one after another, and heads of a sequence cost the same.
void expect_whole(const Pieces& pieces, const std::vector<std::int32_t>& lengths) {
  std::map<std::int32_t, std::int64_t> cost_of;
  for (const auto& [head, of_head] : pieces) {
    std::int64_t end = 0, cost = 0;
    for (const Piece& piece : of_head) {
      EXPECT_EQ(piece[0], end);
      EXPECT_GT(piece[1], piece[0]);
      end = piece[1];
      cost += piece[2];
    }
    EXPECT_EQ(end, (lengths[static_cast<std::size_t>(head.first)] + 511) / 512);
    EXPECT_EQ(cost_of.emplace(head.first, cost).first->second, cost) << head.first << ", " << head.second;
  }
}

Context with(const char* topology) {
  ContextOptions options;
  options.topology = topology;
  options.executor = "serial";
  return context_of(options);
}

// One head in five is cut finer: heads of a sequence are cut in two ways at most, and some in both.
TEST(Partition, HeadsAreCutInTwoWays) {
  const std::vector<std::int32_t> lengths = some_lengths();
  Plan made;
  ASSERT_TRUE(plan(with("numa:2 core:24 pu:1"), decode_of(lengths, false), &made).ok());
  const Partition& partition = impl_of(made)->partition;
  const Pieces pieces = pieces_of(partition);
  ASSERT_EQ(std::ssize(pieces), kSequences * kHeads);
  expect_whole(pieces, lengths);
  std::map<std::int32_t, std::set<std::vector<Piece>>> ways;
  for (const auto& [head, of_head] : pieces) ways[head.first].insert(of_head);
  int two = 0;
  for (const auto& [b, of_sequence] : ways) {
    EXPECT_LE(of_sequence.size(), 2u) << "sequence " << b;
    two += of_sequence.size() == 2;
  }
  EXPECT_GT(two, 0);
  const std::vector<std::int64_t>& floats = partition.domain_floats;
  EXPECT_EQ(std::accumulate(floats.begin(), floats.end(), std::int64_t{0}), partition.partial_floats);
}

// Parts of 5 and 3 heads: each task costs as many times its pieces as it has heads.
TEST(Partition, TasksCostWhatTheirHeadsCost) {
  const std::vector<std::int32_t> lengths = some_lengths();
  std::vector<std::int32_t> homes;
  for (int i = 0; i < kSequences * kHeads; ++i) homes.push_back(i % kHeads < 5);
  AttentionArgs args = decode_of(lengths, true);
  args.kv_domains = homes.data();
  Plan made;
  ASSERT_TRUE(plan(with("numa:2 core:4 pu:1"), args, &made).ok());
  const Pieces pieces = pieces_of(impl_of(made)->partition);
  ASSERT_EQ(std::ssize(pieces), 2 * kSequences);
  EXPECT_GT(impl_of(made)->partition.tasks.size(), pieces.size()) << "none is cut";
  expect_whole(pieces, lengths);
}

}  // namespace
}  // namespace kumiko::test
