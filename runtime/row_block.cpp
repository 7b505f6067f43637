// SPDX-License-Identifier: Apache-2.0
#include "runtime/row_block.h"

#include <cmath>

namespace kumiko {
namespace {

using kernels::kSplitKeys;
using kernels::min_of;

/// Sum of clamp(i + offset, 0, limit) for i in [first, last).
std::int64_t sum_clamped(std::int64_t first, std::int64_t last, std::int64_t offset, std::int64_t limit) {
  const std::int64_t rise = std::clamp(-offset, first, last), flat = std::clamp(limit - offset, rise, last);
  return (flat - rise) * (rise + flat - 1 + 2 * offset) / 2 + (last - flat) * limit;
}

/// Query-key pairs that rows [row_begin, row_end) see. A query position with only some of its rows in the
/// range counts in proportion.
std::int64_t pairs_of_all_keys(const kernels::HeadProblem& head, std::int64_t row_begin,
                               std::int64_t row_end) {
  const std::int64_t first = row_begin / head.group, last = (row_end + head.group - 1) / head.group;
  const std::int64_t pairs =
      (last - first) * head.prefix +
      sum_clamped(first, last, head.end_offset - head.prefix, head.kv_len - head.prefix) -
      sum_clamped(first, last, head.begin_offset, head.kv_len) +
      sum_clamped(first, last, head.begin_offset, head.first_tokens);
  return std::max<std::int64_t>(pairs, 0) * (row_end - row_begin) / std::max<std::int64_t>(last - first, 1);
}

/// The same, of the keys from the first to the last split that the call may have (OwnSplits).
std::int64_t visible_pairs(const kernels::HeadProblem& head, std::int64_t row_begin, std::int64_t row_end) {
  const auto before = [&](std::int64_t split) {
    if (split == 0) return std::int64_t{0};
    kernels::HeadProblem part = head;
    part.kv_len = min_of(head.kv_len, split * kSplitKeys);
    part.prefix = min_of(head.prefix, part.kv_len);
    part.first_tokens = min_of(head.first_tokens, part.kv_len);
    return pairs_of_all_keys(part, row_begin, row_end);
  };
  if (head.own.begin == 0 && head.own.end >= ceil_div(head.kv_len, kSplitKeys))
    return pairs_of_all_keys(head, row_begin, row_end);
  return before(min_of(head.own.end, ceil_div(head.kv_len, kSplitKeys))) - before(head.own.begin);
}

/// Rows [row, end) over the splits that they see, without the first `shared` ones, which every row sees.
RowBlock block_of(const Tuning& tuning, const kernels::HeadProblem& head, std::int64_t row, std::int64_t end,
                  std::int64_t shared) {
  RowBlock block = keys_of_rows(head, row, end);
  std::int64_t pairs = visible_pairs(head, row, end);
  if (shared > 0) {
    block.shared_splits = block.split_begin = shared;
    block.first_key = shared * kSplitKeys;
    pairs -= (end - row) * block.first_key;
  }
  block.cost = tuning.pipeline->cost({pairs, end - row, block.keys(), head.head_dim, head.v_head_dim});
  return block;
}

/// Leaves out the splits before and after those that the call has. With first tokens besides a window the
/// costs stay those of all keys.
void keep_own(const kernels::HeadProblem& head, std::int64_t row, RowBlock* block) {
  const std::int64_t last = std::min(head.own.end, ceil_div(head.kv_len, kSplitKeys)),
                     first = std::min(head.own.begin, last);
  if (head.first_tokens == 0) {
    block->first_key = std::clamp(block->first_key, first * kSplitKeys, last * kSplitKeys);
    block->last_key =
        std::clamp(block->last_key, block->first_key, std::max(block->first_key, last * kSplitKeys));
  }
  const kernels::SplitNumbers numbers(head, row);
  block->split_begin = std::max(block->split_begin, numbers.number(first));
  block->split_end = std::max(std::min(block->split_end, numbers.number(last)), block->split_begin);
}

}  // namespace

RowBlock keys_of_rows(const kernels::HeadProblem& head, std::int64_t row, std::int64_t end) {
  RowBlock block{};
  block.row_begin = row;
  block.row_end = end;
  block.first_key = std::min(head.begin_of(row), head.kv_len);
  block.last_key = std::max(head.end_of(end - 1), block.first_key);
  if (head.first_tokens == 0) {
    block.split_begin = block.first_key / kSplitKeys;
  } else {
    block.first_tokens = std::min(head.first_tokens, block.last_key);
    block.first_key = std::max(block.first_key, block.first_tokens);
    block.last_key = std::max(block.last_key, block.first_key);
    block.split_begin = kernels::SplitNumbers(head, row).hidden;
  }
  block.split_end = std::max(ceil_div(block.last_key, kSplitKeys), block.split_begin);
  keep_own(head, row, &block);
  return block;
}

/// As many rows a task as fit, but fewer if workers would get too few tasks. The blocks of a head are as
/// equal as whole tiles allow.
BlockRows RowCut::operator()(std::int64_t rows) const {
  const Tuning& tuning = tunings.of(rows);
  if (tasks == 1) return {tuning.max_task_rows, 0};
  const std::int64_t unit = tuning.min_task_rows, about_rows = std::max(wanted, least_tiles * unit);
  const auto in_blocks = [&](std::int64_t blocks) { return ceil_div(ceil_div(rows, blocks), unit) * unit; };
  std::int64_t size = in_blocks(std::max<std::int64_t>((rows + about_rows / 2) / about_rows, 1));
  if (size > tuning.max_task_rows || size > about_rows + about_rows / 8)
    size = in_blocks(ceil_div(rows, std::min(about_rows / unit * unit, tuning.max_task_rows)));
  // Rows are cut finer before keys, because split states cost memory.
  const bool is_cut_finer = wants_fine && size > unit && least_tiles == 1;
  return {size, is_cut_finer ? std::max(size / kFinerBy / unit * unit, unit) : 0};
}

void RowBlocks::set(const Problem& problem, const RowCut& cut, const SharedGroups& groups) {
  begin_.clear();
  whole_.clear();
  fine_.clear();
  fine_begin_.clear();
  shared_.clear();
  total_cost_ = 0;
  begin_.reserve(static_cast<std::size_t>(problem.batch) + 1);
  whole_.reserve(static_cast<std::size_t>(problem.batch));
  std::int64_t rows_before = 0;
  // Kept for sequences of the same length: its divisions for each of 64 took 2 of the 50 us that their plan
  // may take.
  BlockRows size{};
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    begin_.push_back(whole_.size());
    const std::int64_t rows = problem.rows_of(b);
    if (rows == 0) continue;
    const kernels::HeadProblem head = problem.keys_seen(b);
    const Tuning& tuning = cut.tunings.of(rows);
    const std::int64_t unit = tuning.min_task_rows;
    if (rows != rows_before) size = cut(rows);
    rows_before = rows;
    for (std::int64_t row = 0; row < rows; row += size.rows) {
      const std::int64_t end = min_of(row + size.rows, rows);
      whole_.push_back(block_of(tuning, head, row, end, groups.own_split_of(b)));
      if (!cut.has_fine) continue;
      fine_begin_.push_back(fine_.size());
      for (std::int64_t at = row, next; at < end && size.fine > 0; at = next) {
        const std::int64_t half = cut.halves ? ceil_div((end - at) / 2, unit) * unit : 0;
        next = min_of(at + std::max(half, size.fine), end);
        fine_.push_back(block_of(tuning, head, at, next, groups.own_split_of(b)));
      }
    }
  }
  begin_.push_back(whole_.size());
  if (cut.has_fine) fine_begin_.push_back(fine_.size());
  add_shared(problem, cut.tunings, groups);
  scale_costs(problem.own_heads());
}

void RowBlocks::add_shared(const Problem& problem, const Tunings& tunings, const SharedGroups& groups) {
  for (const SharedKeys& group : groups.groups) {
    RowBlock& block = shared_.emplace_back();
    block.row_end = (group.position_end - group.position_begin) * problem.group();
    block.split_begin = group.split_begin;
    block.split_end = group.split_end;
    block.first_key = group.split_begin * kSplitKeys;
    block.last_key = group.split_end * kSplitKeys;
    const std::int64_t keys = block.last_key - block.first_key;
    block.cost = tunings.of(block.row_end)
                     .pipeline->cost(
                         {block.row_end * keys, block.row_end, keys, problem.head_dim, problem.v_head_dim});
  }
}

/// A cost is below 2^55, but the sum over many long sequences can exceed 2^63. Only the costs' proportions
/// matter. So if the sum exceeds 2^61, all are divided by the same power of two, and policies can add them
/// up.
void RowBlocks::scale_costs(std::int64_t kv_heads) {
  __extension__ using Wide = unsigned __int128;
  Wide sum = 0;
  for (const auto* list : {&whole_, &fine_, &shared_}) {
    for (const RowBlock& block : *list) sum += static_cast<Wide>(block.cost) * static_cast<Wide>(kv_heads);
  }
  int shift = 0;
  while (sum >> shift > Wide{1} << 61) ++shift;
  cost_unit_ = std::ldexp(1.0, shift);
  for (auto* list : {&whole_, &fine_, &shared_}) {
    for (RowBlock& block : *list) block.cost >>= shift;
  }
  for (const auto* list : {&whole_, &shared_}) {
    for (const RowBlock& block : *list) total_cost_ += block.cost * kv_heads;
  }
}

}  // namespace kumiko
