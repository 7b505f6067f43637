// SPDX-License-Identifier: Apache-2.0
#include "runtime/tuning.h"

#include <algorithm>
#include <cmath>

namespace kumiko {

constexpr std::int64_t kDefaultL2Bytes = 512 * 1024;
constexpr std::int64_t kMaxStagedSplits = 16;
// Limits the scratch if decode is forced on long queries.
constexpr std::int64_t kInPlaceRows = kernels::kMaxDecodeRows;

namespace {

// Such a window is not much longer than a task.
bool is_narrow(const Visibility& visibility) {
  return visibility.window_rows > 0 && visibility.window_rows <= 1024;
}

}  // namespace

void fit_kernels(const CoreTuning& core, const Visibility& visibility, kernels::KernelSet* kernels) {
  kernels->fetch = core.fetch();
  kernels->narrow_decode_rows = core.narrow_decode_rows;
  kernels->pipe_ahead = core.pipe_ahead;
  // A tile computes every key that any of its rows sees. Narrow tiles waste less at the edges of a window.
  const std::int64_t widest =
      (is_narrow(visibility) ? core.narrow_tile_vectors : core.tile_vectors) * kernels->lanes;
  kernels->max_nr = kernels->strip = std::min(kernels->max_nr, widest);
  if (!visibility.has_mask) return;
  // Masks are checked tile by tile, and often have blocks of 64: tiles across their borders would compute up
  // to a quarter more. The rest of a block after full tiles is a tile too. A rest of a single vector is slow
  // (Zen 5: 0.8 of peak with AVX-512, 0.54 with AVX2), so 48 + 16 becomes 32 + 32; 24 + 24 + 16 stays.
  constexpr std::int64_t kMaskBlock = 64;
  while (kernels->max_nr > 2 * kernels->lanes && kMaskBlock % kernels->max_nr == kernels->lanes)
    kernels->max_nr -= kernels->lanes;
  kernels->strip = kMaskBlock;
}

// Each row of a block costs decode some steps of its own, a softmax above all; tiles take as many rows as
// they have lanes at once, but pack the keys. So the fewer keys, the fewer rows are faster in place. Zen 4, 8
// sequences of 12 heads, time in place over that of tiles (kumiko-bench --warm, both pipelines), AVX-512;
// AVX2:
//                8 rows       12 rows      16 rows      24 rows
//   16 x 32      1.26; 1.93   1.73; 2.13   2.04; 2.56   2.04; 2.73
//   64 x 32      0.73; 1.11   1.16; 1.36   1.30; 1.79   1.40; 1.90
//   256 x 32     0.72; 0.85   0.86; 1.08   0.97; 1.37   0.95; 1.50
//   16 x 128     0.69; 1.37   1.00; 1.55   1.17; 1.85   1.17; 2.17
//   64 x 128     0.47; 0.80   0.67; 0.99   0.89; 1.37   0.89; 1.38
//   256 x 128    0.33; 0.47   0.45; 0.63   0.60; 0.86   0.66; 0.91
std::int64_t rows_in_place(const CoreTuning& core, const kernels::KernelSet& kernels, std::int64_t kv_len,
                           std::int64_t head_dim) {
  constexpr std::int64_t kLeastRows = 4;  // A step of decode, however few keys it has yet.
  if (kv_len >= kernels::kSplitKeys) return core.decode_rows;
  const double elements = static_cast<double>(kv_len) * static_cast<double>(head_dim);
  const auto rows =
      static_cast<std::int64_t>(static_cast<double>(kernels.lanes) / 60.0 * std::sqrt(elements));
  return std::min(core.decode_rows, std::max(kLeastRows, rows));
}

// The tile pipeline is online on every ISA, for every type and head_dim. Attention on Zen 5, one core, 8
// heads of 1024, fractions of peak with AVX-512 / AVX2:
//                 D = 64        D = 128       D = 256
//   online        0.83 / 0.86   0.85 / 0.90   0.88 / 0.91
//   interleaved   0.83 / 0.85   0.85 / 0.89   0.86 / 0.92
//   two_pass      0.81 / 0.83   0.82 / 0.86   0.82 / 0.82
//   three_pass    0.79 / 0.85   0.82 / 0.87   0.84 / 0.87
// The probabilities that two_pass and three_pass keep leave room for fewer rows a task, so that keys are
// packed more often. interleaved holds one slot more and gains nothing from it: out-of-order execution
// reaches over a few hundred instructions, not over a tile.
Tuning tune(const CoreTuning& core, const kernels::KernelSet& kernels, const Visibility& visibility,
            std::int64_t rows, std::int64_t in_place_rows, std::int64_t head_dim, std::int64_t v_head_dim,
            std::int64_t l2_bytes, const char* forced_pipeline) {
  Tuning tuning{};
  tuning.pipeline = kernels::find_pipeline(forced_pipeline         ? forced_pipeline
                                           : rows <= in_place_rows ? "decode"
                                                                   : "online");
  const kernels::PipelineTraits& traits = tuning.pipeline->traits;
  tuning.pipe_ahead = core.pipe_ahead;
  tuning.staged_splits = 1;
  if (traits.in_place) {
    tuning.max_task_rows = tuning.min_task_rows = kInPlaceRows;
    return tuning;
  }
  kernels::KernelSet tuned = kernels;
  tuned.pipe_ahead = tuning.pipe_ahead;
  tuned.staged_splits = tuning.staged_splits;
  // Keys in pages are copied together before they are packed, and that copy is read once: it needs no room in
  // the L2. When it had some, in an L2 of 512 KiB, f32 tasks of D = 128 had 96 rows where dense ones have 384
  // and more, and a chunk of 512 beside 63 decodes in pages of 128 ran at 0.8 of its speed (Zen 3).
  tuned.page_keys = 0;
  const std::int64_t budget = (l2_bytes > 0 ? l2_bytes : kDefaultL2Bytes) / 8 * 7;
  const auto fits = [&](std::int64_t task_rows) {
    return static_cast<std::int64_t>(
               tuning.pipeline->scratch_bytes(tuned, task_rows, head_dim, v_head_dim)) <= budget;
  };
  // Every tile reads the packed block and what its pipeline keeps of other tiles, so these must stay in the
  // L2. Tiles that store no probabilities (streams_tiles) are read once a block, so their queries and states
  // may come from the next cache level. A packed block larger than the L2 comes from there, too, but few rows
  // would pack it often: 8 heads of 1024, D = 256, on a Zen 3 (AVX2, an L2 of 512 KiB, one thread) have 0.77
  // of peak with 4 tiles a task, where packing is 13 % of the time, and 0.84 with 16 tiles.
  // With a mask or a narrow window perhaps half of the rows use a packed element.
  const bool in_part = visibility.has_mask || is_narrow(visibility);
  const std::int64_t most_rows = (in_part ? 2 : 1) * core.task_tiles * kernels.max_nr;
  std::int64_t task_rows = kernels.strip;
  while (task_rows < most_rows && (traits.streams_tiles || fits(task_rows + kernels.strip)))
    task_rows += kernels.strip;
  // With fewer than 4 tiles the packing of K and V costs too much (8 % at 48 rows), more than overflowing the
  // L2.
  tuning.max_task_rows = std::max(task_rows, 4 * kernels.strip);
  tuning.min_task_rows = kernels.strip;
  if (traits.uses_staging) {
    // The L2 left over by the probabilities of a task's rows goes to a longer super-block.
    const std::int64_t staged_rows = std::min(tuning.max_task_rows, std::max<std::int64_t>(rows, 1));
    while (tuned.staged_splits < kMaxStagedSplits) {
      ++tuned.staged_splits;
      if (!fits(staged_rows)) break;
      tuning.staged_splits = tuned.staged_splits;
    }
  }
  return tuning;
}

std::string Tuning::describe() const {
  if (pipeline->traits.uses_ring) return ", producer " + std::to_string(pipe_ahead) + " tiles ahead";
  if (pipeline->traits.uses_staging) return ", super-blocks of " + std::to_string(staged_splits) + " splits";
  return "";
}

}  // namespace kumiko
