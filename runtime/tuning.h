// SPDX-License-Identifier: Apache-2.0
// The choices behind a plan: pipeline, rows per task, splits per super-block. None of them changes a bit of
// the result.
#pragma once

#include <cstdint>
#include <string>

#include "kernels/pipelines/pipeline.h"
#include "runtime/core_tuning.h"

namespace kumiko {

struct Tuning {
  const kernels::PipelineRow* pipeline;
  std::int64_t max_task_rows;  ///< Most query rows of a task. Pipelines that store probabilities of several
                               ///< tiles fit them and a packed block of K and V into the core's L2.
  std::int64_t min_task_rows;  ///< Fewer would waste lanes.
  std::int64_t pipe_ahead;     ///< See KernelSet.
  std::int64_t staged_splits;
  /// ", ..." with the numbers specific to the pipeline, or "".
  std::string describe() const;
};

/// The choices for both kinds of sequences that one call may have.
struct Tunings {
  Tuning few;             ///< For sequences of at most few_rows query rows a KV head.
  Tuning many;            ///< For longer ones.
  std::int64_t few_rows;  ///< 0: `many` is for all.

  const Tuning& of(std::int64_t rows) const { return rows <= few_rows ? few : many; }
};

/// What limits the keys that a row sees, apart from causality.
struct Visibility {
  bool has_mask = false;
  /// Rows in one window: its keys times the heads of a group. 0: no window.
  std::int64_t window_rows = 0;
};

/// Sets the core's prefetch distances and tile sizes, the latter so that little hidden by a mask or a narrow
/// window is computed.
void fit_kernels(const CoreTuning& core, const Visibility& visibility, kernels::KernelSet* kernels);

/// The most query rows of a KV head for which its keys, up to kv_len, are read in place:
/// CoreTuning::decode_rows, or fewer where there are few keys.
std::int64_t rows_in_place(const CoreTuning& core, const kernels::KernelSet& kernels, std::int64_t kv_len,
                           std::int64_t head_dim);

/// rows: query rows of a KV head (group * q_len). in_place_rows: of rows_in_place(). l2_bytes: a core's share
/// of the L2, 0 if unknown. forced_pipeline: nullptr, or the name of the one to use whatever the rows.
Tuning tune(const CoreTuning& core, const kernels::KernelSet& kernels, const Visibility& visibility,
            std::int64_t rows, std::int64_t in_place_rows, std::int64_t head_dim, std::int64_t v_head_dim,
            std::int64_t l2_bytes, const char* forced_pipeline);

}  // namespace kumiko
