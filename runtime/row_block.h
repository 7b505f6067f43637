// SPDX-License-Identifier: Apache-2.0
// Blocks of rows of one KV head, before they are cut along the keys, and the costs of blocks and pieces.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/problem.h"
#include "runtime/shared_keys.h"
#include "runtime/tuning.h"

namespace kumiko {

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a / b + (a % b != 0);
}

struct RowBlock {
  std::int64_t row_begin, row_end;
  std::int64_t first_key, last_key;     ///< [first_key, last_key): seen by some row
  std::int64_t first_tokens;            ///< keys before first_key that are seen, too
  std::int64_t split_begin, split_end;  ///< the splits that these keys lie in (kernels::SplitNumbers)
  std::int64_t cost;                    ///< in FMAs (PipelineRow::cost); scaled by RowBlocks
  std::int64_t shared_splits = 0;  ///< before split_begin, which the rows see too but other tasks compute

  std::int64_t splits() const { return split_end - split_begin; }
  std::int64_t keys() const { return first_tokens + last_key - first_key; }
  /// Keys of the splits before `split`.
  std::int64_t keys_until(std::int64_t split) const {
    if (split == split_end) return keys();
    return std::min((split - split_begin) * kernels::kSplitKeys, first_tokens) +
           std::clamp<std::int64_t>(split * kernels::kSplitKeys - first_key, 0, last_key - first_key);
  }
  /// Cost of the splits before `split`, in proportion to their keys, because the first and the last split may
  /// have few. The costs of pieces add up to the block's, so that heads of equal cost stay equal.
  std::int64_t cost_until(std::int64_t split) const {
    if (split == split_end) return cost;
    return static_cast<std::int64_t>(static_cast<double>(cost) * static_cast<double>(keys_until(split)) /
                                     static_cast<double>(keys()));
  }
};

/// Rows [row, end) of a head and all keys that they see; cost is not set.
RowBlock keys_of_rows(const kernels::HeadProblem& head, std::int64_t row, std::int64_t end);

// With equal pieces a worker may be idle for as long as one piece takes: with 8 per worker, an eighth of the
// time. So one piece in five is cut finer by this factor. The policies assign costly pieces first, and the
// fine ones fill the gaps: idle time falls to a fiftieth, for a fifth of the overhead of cutting everything
// so fine.
inline constexpr std::int64_t kFinerBy = 6;

/// Sizes of row blocks, in rows.
struct BlockRows {
  std::int64_t rows;  ///< Of a block; the last one of a head may have fewer.
  std::int64_t fine;  ///< Of the smallest piece of a block that is cut finer; 0: no block is cut finer.
};

/// How the rows of a call are cut into blocks.
struct RowCut {
  const Tunings& tunings;
  std::int64_t tasks;        ///< Target, without the finer pieces; 1: rows are not cut to have more tasks.
  std::int64_t wanted;       ///< Rows of a task if there are `tasks` tasks.
  bool halves;               ///< A block that is cut finer becomes a half, a quarter, ..., not equal pieces.
  std::int64_t least_tiles;  ///< Of a block, if the rows have as many; with more than 1 none is cut finer.
  bool wants_fine = false;
  bool has_fine = false;  ///< Some sequence's rows are cut finer.

  /// The blocks of a sequence of `rows` rows a head, more than 0.
  BlockRows operator()(std::int64_t rows) const;
};

/// The row blocks of all sequences. All heads of a sequence have the same, so one block stands for all of
/// them; finer ones serve some heads alone. Blocks of a sequence are numbered from 0.
class RowBlocks {
 public:
  /// Replaces them, in the same memory: their number depends on the rows alone.
  void set(const Problem& problem, const RowCut& cut, const SharedGroups& groups);

  std::int64_t count(std::int64_t b) const {
    const auto i = static_cast<std::size_t>(b);
    return static_cast<std::int64_t>(begin_[i + 1] - begin_[i]);
  }
  const RowBlock& whole(std::int64_t b, std::int64_t i) const { return whole_[index(b, i)]; }
  /// The same rows, cut finer.
  std::span<const RowBlock> fine(std::int64_t b, std::int64_t i) const {
    const std::size_t at = index(b, i);
    return std::span(fine_).subspan(fine_begin_[at], fine_begin_[at + 1] - fine_begin_[at]);
  }
  std::span<const RowBlock> all() const { return whole_; }
  /// All rows of each group over the keys that they share.
  std::span<const RowBlock> shared() const { return shared_; }
  /// Pieces of the blocks if all were cut finer.
  std::int64_t fine_count() const { return static_cast<std::int64_t>(std::max(fine_.size(), whole_.size())); }
  double cost_unit() const { return cost_unit_; }
  std::int64_t total_cost() const { return total_cost_; }  ///< Of all heads.

 private:
  std::size_t index(std::int64_t b, std::int64_t i) const {
    return begin_[static_cast<std::size_t>(b)] + static_cast<std::size_t>(i);
  }
  void add_shared(const Problem& problem, const Tunings& tunings, const SharedGroups& groups);
  void scale_costs(std::int64_t kv_heads);

  std::vector<std::size_t> begin_;  // [batch + 1] in whole_
  std::vector<RowBlock> whole_;
  std::vector<RowBlock> fine_;
  std::vector<std::size_t> fine_begin_;  // [blocks + 1] in fine_
  std::vector<RowBlock> shared_;         // [groups]
  double cost_unit_ = 1;
  std::int64_t total_cost_ = 0;
};

}  // namespace kumiko
