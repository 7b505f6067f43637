// SPDX-License-Identifier: Apache-2.0
#include "runtime/row_block.h"

#include <algorithm>

namespace kumiko {
namespace {

using kernels::kSplitKeys;

/// Sum of clamp(i + offset, 0, limit) for i in [first, last).
std::int64_t sum_clamped(std::int64_t first, std::int64_t last, std::int64_t offset, std::int64_t limit) {
  const std::int64_t rise = std::clamp(-offset, first, last), flat = std::clamp(limit - offset, rise, last);
  return (flat - rise) * (rise + flat - 1 + 2 * offset) / 2 + (last - flat) * limit;
}

/// Query-key pairs that rows [row_begin, row_end) see; rows of a query position are taken as a whole at the
/// rim.
std::int64_t visible_pairs(const kernels::HeadProblem& head, std::int64_t row_begin, std::int64_t row_end) {
  const std::int64_t first = row_begin / head.group, last = (row_end + head.group - 1) / head.group;
  const std::int64_t pairs = sum_clamped(first, last, head.end_offset, head.kv_len) -
                             sum_clamped(first, last, head.begin_offset, head.kv_len);
  return std::max<std::int64_t>(pairs, 0) * (row_end - row_begin) / std::max<std::int64_t>(last - first, 1);
}

}  // namespace

RowBlock row_block(const Plan::Impl& plan, const kernels::HeadProblem& head, std::int64_t row,
                   std::int64_t end) {
  RowBlock block{};
  block.row_begin = row;
  block.row_end = end;
  block.first_key = std::min(head.begin_of(row), head.kv_len);
  block.last_key = std::max(head.end_of(end - 1), block.first_key);
  block.split_begin = block.first_key / kSplitKeys;
  block.split_end = std::max((block.last_key + kSplitKeys - 1) / kSplitKeys, block.split_begin);
  block.cost = plan.tuning.pipeline->cost({visible_pairs(head, row, end), end - row,
                                           block.last_key - block.first_key, head.head_dim, head.v_head_dim});
  return block;
}

}  // namespace kumiko
