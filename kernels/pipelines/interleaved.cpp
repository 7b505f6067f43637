// SPDX-License-Identifier: Apache-2.0
// interleaved: two passes that alternate. A producer computes probabilities `pipe_ahead` (tile, block) steps
// before the consumer multiplies them with V; in between they wait in a ring of pipe_ahead + 1 slots.
//
// The producer packs the keys of a block when it enters it, the consumer the values: one buffer of each is
// enough, though the two may be in different blocks. The ring is emptied at the end of a split, because the
// next one uses the same sums.
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {
namespace {

/// A place in the sequence of (block, tile) steps of one split.
struct Cursor {
  const Walk& walk;
  Walk::Keys keys;
  std::int64_t at, tile = 0;
  Block block{};

  Cursor(const Walk& of, const Walk::Keys& split) : walk(of), keys(split), at(split.first_block()) {}
  bool done() const { return at >= keys.to; }
  bool enters_block() {
    if (tile != 0) return false;
    block = walk.block_at(at, keys);
    return true;
  }
  void advance() {
    if (++tile < walk.tile_count()) return;
    tile = 0;
    at = keys.next_block(at);
  }
};

}  // namespace

std::size_t interleaved_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                      std::int64_t v_head_dim) {
  return Walk(kernels, rows, head_dim, v_head_dim, kernels.pipe_ahead + 1, nullptr).scratch_bytes();
}

void interleaved_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& range,
                     std::byte* memory) noexcept {
  const std::int64_t slots = kernels.pipe_ahead + 1;
  Walk walk(kernels, range.row_end - range.row_begin, head.score_dim(), head.v_head_dim, slots, memory);
  walk.begin(head, range);
  for (std::int64_t split = range.split_begin; split < range.split_end; ++split) {
    const Walk::Keys keys = walk.keys_of(split);
    if (keys.skip) continue;
    walk.begin_split(0);
    Cursor producer(walk, keys), consumer(walk, keys);
    std::int64_t made = 0, used = 0;
    while (!consumer.done()) {
      for (; made <= used + kernels.pipe_ahead && !producer.done(); ++made, producer.advance()) {
        if (producer.enters_block()) walk.pack_keys(producer.block);
        Slot& slot = walk.slot(made % slots);
        walk.score(walk.tile(producer.tile), producer.block, slot);
        walk.exponentiate(walk.tile(producer.tile), slot, 0);
      }
      if (consumer.enters_block()) walk.pack_values(consumer.block);
      walk.add_values(walk.tile(consumer.tile), consumer.block, walk.slot(used++ % slots));
      consumer.advance();
    }
    walk.end_split(split, 0);
  }
  walk.finish();
}

}  // namespace kumiko::kernels
