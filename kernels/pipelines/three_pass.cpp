// SPDX-License-Identifier: Apache-2.0
// three_pass: scores and their maxima of a whole super-block, then its exponentials, then its products
// with V. S^T and P^T of the super-block, `staged_splits` splits, lie in the core's share of the
// second-level cache; longer rows take several super-blocks.
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kSplitBlocks = kSplitKeys / kBlockKeys;

std::int64_t slots_of(const KernelSet& kernels, std::int64_t rows) {
  return kernels.staged_splits * kSplitBlocks * Walk::tiles_of(kernels, rows);
}

struct SuperBlock {
  const Walk& walk;
  std::int64_t begin, end;  // splits

  /// step(tile, block, slot, stage) for every tile and block, with blocks in the outer loop. `enter(block)`
  /// before the tiles of a block, `open(stage)` and `close(stage)` around the blocks of a split.
  template <class Open, class Enter, class Step, class Close>
  void visit(Open open, Enter enter, Step step, Close close) const {
    for (std::int64_t split = begin; split < end; ++split) {
      const Walk::Keys keys = walk.keys_of(split);
      if (keys.skip) continue;
      const std::int64_t stage = split - begin;
      open(stage);
      std::int64_t slot = stage * kSplitBlocks * walk.tile_count();
      for (std::int64_t at = keys.first_block(); at < keys.to; at = keys.next_block(at)) {
        Block block = walk.block_at(at, keys);
        enter(block);
        for (std::int64_t t = 0; t < walk.tile_count(); ++t)
          step(walk.tile(t), block, walk.slot(slot++), stage);
      }
      close(stage);
    }
  }
};

}  // namespace

std::size_t three_pass_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                     std::int64_t v_head_dim) {
  return Walk(kernels, rows, head_dim, v_head_dim, slots_of(kernels, rows), nullptr).scratch_bytes();
}

void three_pass_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& range,
                    std::byte* memory) noexcept {
  const std::int64_t rows = range.row_end - range.row_begin;
  Walk walk(kernels, rows, head.score_dim(), head.v_head_dim, slots_of(kernels, rows), memory);
  walk.begin(head, range);
  const auto nothing = [](auto&&...) {};
  for (std::int64_t split = range.split_begin; split < range.split_end; split += kernels.staged_splits) {
    const SuperBlock part{walk, split, min_of(split + kernels.staged_splits, range.split_end)};
    part.visit(
        nothing, [&](Block& block) { walk.pack_keys(block); },
        [&](Tile& tile, Block& block, Slot& slot, std::int64_t) { walk.score(tile, block, slot); }, nothing);
    part.visit(
        [&](std::int64_t stage) { walk.begin_sums(stage); }, nothing,
        [&](Tile& tile, Block&, Slot& slot, std::int64_t stage) { walk.exponentiate(tile, slot, stage); },
        nothing);
    part.visit(
        [&](std::int64_t) { walk.begin_values(); }, [&](Block& block) { walk.pack_values(block); },
        [&](Tile& tile, Block& block, Slot& slot, std::int64_t) { walk.add_values(tile, block, slot); },
        [&](std::int64_t stage) { walk.end_split(split + stage, stage); });
  }
  walk.finish();
}

}  // namespace kumiko::kernels
