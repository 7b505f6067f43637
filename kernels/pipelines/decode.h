// SPDX-License-Identifier: Apache-2.0
// Several KV heads in one task of the pipeline `decode`: all of them use a block of keys and values before
// the next block begins. Where the rows of several heads are adjacent in memory ([batch, seq, heads, dim],
// [pages, keys, heads, dim]), it is then read in order. One head after the other would read some lines here
// and there, and what the hardware prefetches behind them would not be used.
#pragma once

#include <span>

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

/// The most heads that a task has.
inline constexpr std::int64_t kMaxDecodeHeads = 8;

struct HeadTask {
  HeadProblem head;
  TaskRange range;
};

std::size_t decode_heads_scratch_bytes(const KernelSet& kernels, std::int64_t heads, std::int64_t rows,
                                       std::int64_t head_dim, std::int64_t v_head_dim);
/// At most kMaxDecodeHeads heads of one sequence, with the same rows and splits of each. The bits are those
/// of one run for each head.
void decode_heads_run(const KernelSet& kernels, std::span<const HeadTask> tasks, std::byte* scratch) noexcept;

}  // namespace kumiko::kernels
