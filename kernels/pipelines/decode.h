// SPDX-License-Identifier: Apache-2.0
// Several KV heads in one task of the pipeline `decode`: all of them have a block of keys and values before
// the next block begins. Where the rows of several heads lie side by side in memory ([batch, seq, heads,
// dim], [pages, keys, heads, dim]), it is read in order so. One head after the other reads some lines here
// and there, and what the hardware fetches behind them is not used.
#pragma once

#include <span>

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

/// Most heads of a task.
inline constexpr std::int64_t kMaxDecodeHeads = 8;

struct HeadTask {
  HeadProblem head;
  TaskRange range;
};

std::size_t decode_heads_scratch_bytes(const KernelSet& kernels, std::int64_t heads, std::int64_t rows,
                                       std::int64_t head_dim, std::int64_t v_head_dim);
/// At most kMaxDecodeHeads heads of one sequence, with the same rows and splits of each. The bits are those
/// of a run for each.
void decode_heads_run(const KernelSet& kernels, std::span<const HeadTask> tasks, std::byte* scratch) noexcept;

}  // namespace kumiko::kernels
