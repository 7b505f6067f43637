// SPDX-License-Identifier: Apache-2.0
// How a problem is cut into tasks, and which domain takes which task. Rows are cut into blocks; where rows
// alone do not divide the work well, keys are cut too.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/default_init_allocator.h"
#include "runtime/problem.h"
#include "runtime/row_block.h"
#include "runtime/shared_keys.h"
#include "runtime/tuning.h"
#include "scheduler/list_schedule.h"
#include "scheduler/policy.h"

namespace kumiko {

/// Rows [row_begin, row_end) of KV heads [kv_head, kv_head + heads) of one sequence over splits [split_begin,
/// split_end).
struct PlannedTask {
  std::int32_t batch, kv_head;
  std::int32_t heads;  ///< More than 1 only where decode reads rows that lie side by side.
  std::int64_t row_begin, row_end;
  std::int64_t split_begin, split_end;
  const kernels::PipelineRow* pipeline;
  /// Index into Partition::merges if several tasks share the rows' splits, else -1. Its heads' merges follow
  /// one another.
  std::int32_t merge;
  /// Index into Partition::shared.groups, or -1. In a shared task rows are those of the group, `batch` is its
  /// first sequence, and `merge` only says where the states lie.
  std::int32_t shared;
};

/// Rows whose splits several tasks compute. The last of these tasks to end merges their states; or, with
/// in_order, states are merged as they become ready (merges_in_order.h).
struct PlannedMerge {
  std::int32_t tasks;
  std::int64_t split_begin, split_end;
  std::int64_t row_begin, row_end;
  std::int64_t partial_offset;  ///< Where the states of these splits and rows begin in its domain's
                                ///< RunState::partials, in floats.
  std::int32_t domain;          ///< The domain its tasks are assigned to; if they differ, that of the first.
  std::int64_t shared_splits = 0;  ///< Splits before split_begin, whose states shared tasks compute.
  /// Of shared tasks: splits [split_begin, merged_end) are the sequences' first ones, and one task computes
  /// them all. It stores their merged state where that of the first split would lie. Others have a state
  /// each.
  std::int64_t merged_end = 0;
  /// If states are merged as they become ready: the number of the first of its tasks, which are numbered in
  /// the order of their splits. Otherwise -1.
  std::int32_t in_order = -1;
};

/// What a partition needs at most.
struct PartitionSize {
  std::size_t tasks = 0, merges = 0;
  std::int64_t partial_floats = 0;               ///< 0: none, or too many to be reserved.
  std::int64_t tile_rows = 0;                    ///< Of a task of tiles, in any way of cutting.
  std::int64_t heads = 1;                        ///< Of a task.
  std::size_t blocks = 0, cuts = 0, pieces = 0;  ///< Of a sequence; heads that are cut alike count once.
};

struct Partition {
  std::vector<PlannedTask, DefaultInitAllocator<PlannedTask>> tasks;
  std::vector<scheduler::Task> costs;  ///< [tasks], as the policy saw them, in cost_unit FMAs
  std::vector<PlannedMerge> merges;
  SharedGroups shared;
  std::int32_t shared_merges = 0;  ///< merges [shared_merges + group * kv_heads + kv_head] of shared tasks
  std::vector<std::int32_t>
      merge_of;          ///< [batch * kv_heads] of sequences with shared splits; empty without groups
  double cost_unit = 1;  ///< Power of two by which costs were divided so that their sum fits.
  std::int64_t partial_floats = 0;
  std::vector<std::int64_t> domain_floats;  ///< [domains] each domain's share of partial_floats
  scheduler::Assignment assignment;

  /// Rows of the largest task, of those of one pipeline or of all (nullptr).
  std::int64_t most_rows(const kernels::PipelineRow* pipeline = nullptr) const;
  /// KV heads of the task that has most.
  std::int64_t most_heads() const;
  void reserve(const PartitionSize& size, std::size_t domains);
  /// Whether every row block of the problem still begins and ends in the splits that its tasks have.
  bool has_splits_of(const Problem& problem) const;
};

/// The workers that the tasks are for.
struct Workforce {
  std::span<const int> workers_per_domain;
  const scheduler::PolicyRow* policy;

  std::int64_t workers() const;
};

/// A piece of a row block: its splits from the end of the piece before it to `split_end`.
struct Piece {
  std::int64_t split_end, cost;
};

/// A row block that is cut along the keys.
struct BlockCut {
  const RowBlock* block;
  std::size_t first_piece, pieces = 0;
  std::int64_t floats = 0;  ///< of the states of a head's splits
  bool merges = false, in_order = false;
};

/// How a row block is cut for tasks of `heads` heads: into cuts [first, last), one for the whole block or one
/// for each of its finer blocks.
struct BlockWay {
  std::int64_t heads = 0;  ///< 0: not yet
  std::size_t first = 0, last = 0;
};

/// The memory in which partitions are made, kept from one to the next.
struct PartitionSpace {
  RowBlocks blocks;
  std::vector<Piece> pieces;  ///< of the sequence at hand, whose heads are cut alike
  std::vector<BlockCut> cuts;
  std::vector<BlockWay> ways;  ///< [2 * blocks] without and with a fine part
  scheduler::PolicySpace policy;
  Partition best;  ///< of the ways to cut that were tried
};

/// What the problem's partitions need at most, whatever its lengths are. Reserves in `space` all memory that
/// making them takes.
PartitionSize reserve_for_any_lengths(const Problem& problem, const Tunings& tunings,
                                      const Workforce& workforce, PartitionSpace& space);

/// kv_domains: [batch * kv_heads] the domain whose memory holds the head, -1: any; or empty. `made` may hold
/// an earlier partition, whose memory is reused. Errors: unsupported (more tasks than kMaxTasks),
/// out_of_memory (split states larger than the address space); `made` is then unusable.
Status make_partition(const Problem& problem, const Tunings& tunings,
                      std::span<const std::int32_t> kv_domains, const Workforce& workforce,
                      PartitionSpace& space, Partition* made);

/// Planning takes about 200 bytes per task, 13 GB for this many, and the schedulers number tasks in 32 bits.
/// The largest batch we know of, all windows of a vision model, has 10^5.
inline constexpr std::int64_t kMaxTasks = std::int64_t{1} << 26;

}  // namespace kumiko
