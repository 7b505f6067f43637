// SPDX-License-Identifier: Apache-2.0
// online: each tile is taken through all its steps over a block at once, FlashAttention style. S^T never
// leaves the first-level cache.
//
// O is rescaled at every block. Doing so only when the maximum has grown enough to matter could save the
// multiply on the load of each accumulator, one for the 256 FMAs that follow: with a plain load in its place
// a block of 256 keys at D = 128 ran at 0.83 of peak, with the multiply at 0.81 and 0.85 (two runs, Zen 5,
// AVX-512). And the decision would be the same for all queries of a vector, so a row's bits would depend on
// its neighbours in the tile.
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {

std::size_t online_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                 std::int64_t v_head_dim) {
  return Walk(kernels, rows, head_dim, v_head_dim, 1, nullptr).scratch_bytes();
}

void online_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& range,
                std::byte* memory) noexcept {
  Walk walk(kernels, range.row_end - range.row_begin, head.score_dim(), head.v_head_dim, 1, memory);
  walk.begin(head, range);
  Slot& slot = walk.slot(0);
  for (std::int64_t split = range.split_begin; split < range.split_end; ++split) {
    const Walk::Keys keys = walk.keys_of(split);
    if (keys.skip) continue;
    walk.begin_split(0);
    for (std::int64_t at = keys.first_block(); at < keys.to; at = keys.next_block(at)) {
      Block block = walk.block_at(at, keys);
      walk.pack_keys(block);
      walk.set_values(block);
      walk.look_ahead(split, at, keys);
      for (std::int64_t t = 0; t < walk.tile_count(); ++t) {
        Tile& tile = walk.tile(t);
        walk.score(tile, block, slot);
        walk.exponentiate(tile, slot, 0);
        walk.add_values(tile, block, slot);
      }
    }
    walk.end_split(split, 0);
  }
  walk.finish();
}

}  // namespace kumiko::kernels
