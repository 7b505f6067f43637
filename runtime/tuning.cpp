#include "runtime/tuning.h"

#include <algorithm>
#include <cstring>

namespace kumiko {

// Up to this many rows of a KV head, reading K and V in place beats packing them (Zen 5, D = 128: the two
// meet near 8 rows).
constexpr std::int64_t kDecodeRows = 8;
constexpr std::int64_t kDefaultL2Bytes = 512 * 1024;
// Steps ahead 1, 2 and 4 are within the noise of each other (interleaved, D = 256, four tiles of given scores
// over 32768 keys: 0.83, 0.83, 0.86 of peak, AVX2 0.90, 0.90, 0.91; attention, D = 128: 0.80, 0.83, 0.81):
// the least scratch.
constexpr std::int64_t kPipeAhead = 1;
constexpr std::int64_t kMaxTiles = 16;
constexpr std::int64_t kMaxStagedSplits = 16;

namespace {

// Such windows are not much longer than a task has rows.
bool is_narrow(const Visibility& visibility) {
  return visibility.window_rows > 0 && visibility.window_rows <= 1024;
}

}  // namespace

void fit_tiles(kernels::KernelSet& kernels, const Visibility& visibility) {
  // A tile computes what any of its rows sees. Where two vectors of queries are as fast as three (16 chains
  // of multiply-adds, 8 in flight) they waste less at the rim of a window: 512 keys, D = 128, Zen 5, 32 tiles
  // a task, medians of four runs in turns: 0.78 of peak, with tiles of 48 0.75.
  if (is_narrow(visibility) && kernels::base_of(kernels.isa) == kernels::Isa::avx512)
    kernels.max_nr = kernels.strip = 2 * kernels.lanes;
  if (!visibility.has_mask) return;
  // A mask is looked at tile by tile, and masks come in blocks of 64: tiles that straddled their borders
  // would compute up to a quarter more. What full tiles leave of a block is a tile too, and one of a single
  // vector is slow (Zen 5: 0.8 of peak with AVX-512, 0.54 with AVX2): 32 + 32 instead of 48 + 16. 24 + 24 +
  // 16 are left as they are.
  constexpr std::int64_t kMaskBlock = 64;
  while (kernels.max_nr > 2 * kernels.lanes && kMaskBlock % kernels.max_nr == kernels.lanes)
    kernels.max_nr -= kernels.lanes;
  kernels.strip = kMaskBlock;
}

// The tile pipeline is online on every ISA, for every type and head_dim. Attention on Zen 5, one core, 8
// heads of 1024, fractions of peak with AVX-512 / AVX2:
//                 D = 64        D = 128       D = 256
//   online        0.83 / 0.86   0.85 / 0.90   0.88 / 0.91
//   interleaved   0.83 / 0.85   0.85 / 0.89   0.86 / 0.92
//   two_pass      0.81 / 0.83   0.82 / 0.86   0.82 / 0.82
//   three_pass    0.79 / 0.85   0.82 / 0.87   0.84 / 0.87
// What two_pass and three_pass keep of probabilities costs rows of a task, and so packing; interleaved has
// one slot more to hold and gains nothing from it: out-of-order execution reaches over a few hundred
// instructions, not over a tile.
Tuning tune(const kernels::KernelSet& kernels, const Visibility& visibility, std::int64_t rows,
            std::int64_t head_dim, std::int64_t v_head_dim, std::int64_t l2_bytes,
            const char* forced_pipeline) {
  Tuning tuning{};
  tuning.pipeline = kernels::find_pipeline(forced_pipeline       ? forced_pipeline
                                           : rows <= kDecodeRows ? "decode"
                                                                 : "online");
  tuning.pipe_ahead = kPipeAhead;
  tuning.staged_splits = 1;
  if (std::strcmp(tuning.pipeline->name, "decode") == 0) {
    tuning.max_task_rows = tuning.min_task_rows = 64;  // bounds scratch when decode is forced on long queries
    return tuning;
  }
  kernels::KernelSet tuned = kernels;
  tuned.pipe_ahead = tuning.pipe_ahead;
  tuned.staged_splits = tuning.staged_splits;
  const std::int64_t budget = (l2_bytes > 0 ? l2_bytes : kDefaultL2Bytes) * 7 / 8;
  const auto fits = [&](std::int64_t task_rows) {
    return static_cast<std::int64_t>(
               tuning.pipeline->scratch_bytes(tuned, task_rows, head_dim, v_head_dim)) <= budget;
  };
  const char* name = tuning.pipeline->name;
  // What must stay in the L2 is what every tile comes back to, the packed block. Where no tile leaves
  // probabilities behind, the tiles' queries and states may come from the next level: they are read once a
  // block. Zen 5, D = 256, 1024 keys, one core: 768 rows a task 0.875 of peak (AVX2 0.909), the 192 that fit
  // the L2 0.826 (0.848); at D = 128 768 rows 0.853 (0.897), 384 rows 0.850 (0.888). 1152 and 1536 rows: no
  // faster.
  const bool streams_tiles = std::strcmp(name, "online") == 0 || std::strcmp(name, "interleaved") == 0;
  // A packed element is used by the rows that see it, with a mask or a window perhaps half of them (Zen 5, D
  // = 128, half of the squares of 64 hidden, AVX-512: 0.77 of peak with 512 rows, 0.77 with 768, 0.81 with
  // 1024).
  const bool in_part = visibility.has_mask || is_narrow(visibility);
  const std::int64_t most_rows = (in_part ? 2 : 1) * kMaxTiles * kernels.max_nr;
  std::int64_t task_rows = kernels.strip;
  while (task_rows < most_rows &&
         (fits(task_rows + kernels.strip) || (streams_tiles && fits(kernels.strip)))) {
    task_rows += kernels.strip;
  }
  // With fewer than 4 tiles the packing of K and V shows (8 % at 48 rows); L2 overflow costs less than that.
  tuning.max_task_rows = std::max(task_rows, 4 * kernels.strip);
  tuning.min_task_rows = kernels.strip;
  if (std::strcmp(name, "three_pass") == 0) {
    // What the probabilities of a task's rows leave of the L2 goes to a longer super-block.
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
  if (std::strcmp(pipeline->name, "interleaved") == 0)
    return ", producer " + std::to_string(pipe_ahead) + " tiles ahead";
  if (std::strcmp(pipeline->name, "three_pass") == 0)
    return ", super-blocks of " + std::to_string(staged_splits) + " splits";
  return "";
}

std::int64_t task_cost(const kernels::PipelineRow& pipeline, std::int64_t visible, std::int64_t rows,
                       std::int64_t keys, std::int64_t head_dim, std::int64_t v_head_dim) {
  const std::int64_t dims = head_dim + v_head_dim;
  if (std::strcmp(pipeline.name, "decode") == 0)
    return keys * dims * std::max<std::int64_t>(rows, 4) + 64 * dims;
  // A pair costs dims FMAs and about 16 more for its exponential; a row in and out about 32. Packing an
  // element counts as 20; traces of one thread on Zen 5 (8 heads of 1024, D = 128) have 29 to 36 with
  // AVX-512, 27 with AVX2.
  return visible * (dims + 16) + keys * dims * 20 + rows * dims * 32;
}

}  // namespace kumiko
