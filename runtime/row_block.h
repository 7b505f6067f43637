// SPDX-License-Identifier: Apache-2.0
// Rows of one KV head before they are cut along the keys, and what they and their pieces cost.
#pragma once

#include <algorithm>
#include <cstdint>

#include "runtime/plan.h"

namespace kumiko {

struct RowBlock {
  std::int64_t row_begin, row_end;
  std::int64_t first_key, last_key;     ///< [first_key, last_key): seen by some row
  std::int64_t split_begin, split_end;  ///< the splits that these keys lie in
  std::int64_t cost;                    ///< in FMAs (PipelineRow::cost); scaled by the Partitioner

  std::int64_t splits() const { return split_end - split_begin; }
  /// Of the splits before `split`: in proportion to the keys, for the first and the last split may have few.
  /// The costs of pieces add up to the block's, so that heads of equal cost stay equal.
  std::int64_t cost_until(std::int64_t split) const {
    if (split == split_end) return cost;
    const std::int64_t keys = std::max(split * kernels::kSplitKeys - first_key, std::int64_t{0});
    return static_cast<std::int64_t>(static_cast<double>(cost) * static_cast<double>(keys) /
                                     static_cast<double>(last_key - first_key));
  }
};

/// Rows [row, end) of a head, all keys that they see.
RowBlock row_block(const Plan::Impl& plan, const kernels::HeadProblem& head, std::int64_t row,
                   std::int64_t end);

}  // namespace kumiko
