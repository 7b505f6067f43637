// SPDX-License-Identifier: Apache-2.0
// two_pass: over each block of keys, first the probabilities of all tiles, then their products with V. Keys
// and values of a block are not used in the same pass.
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {

std::size_t two_pass_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                   std::int64_t v_head_dim) {
  return Walk(kernels, rows, head_dim, v_head_dim, Walk::tiles_of(kernels, rows), nullptr).scratch_bytes();
}

void two_pass_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& range,
                  std::byte* memory) noexcept {
  const std::int64_t rows = range.row_end - range.row_begin, tiles = Walk::tiles_of(kernels, rows);
  Walk walk(kernels, rows, head.score_dim(), head.v_head_dim, tiles, memory);
  walk.begin(head, range);
  for (std::int64_t split = range.split_begin; split < range.split_end; ++split) {
    const Walk::Keys keys = walk.keys_of(split);
    if (keys.skip) continue;
    walk.begin_split(0);
    for (std::int64_t at = keys.first_block(); at < keys.to; at = keys.next_block(at)) {
      Block block = walk.block_at(at, keys);
      walk.pack_keys(block);
      for (std::int64_t t = 0; t < tiles; ++t) {
        walk.score(walk.tile(t), block, walk.slot(t));
        walk.exponentiate(walk.tile(t), walk.slot(t), 0);
      }
      walk.set_values(block);
      for (std::int64_t t = 0; t < tiles; ++t) walk.add_values(walk.tile(t), block, walk.slot(t));
    }
    walk.end_split(split, 0);
  }
  walk.finish();
}

}  // namespace kumiko::kernels
