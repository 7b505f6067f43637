// SPDX-License-Identifier: Apache-2.0
// decode: few rows, keys and values read once, in place; several heads in turn.
#include "kernels/pipelines/decode.h"

#include <array>
#include <optional>

#include "kernels/pipelines/decode_head.h"
#include "kernels/pipelines/decode_scratch.h"
#include "kernels/pipelines/read_order.h"

namespace kumiko::kernels {
namespace {

/// Heads that see the same keys.
class HeadsInTurn {
 public:
  HeadsInTurn(const KernelSet& kernels, std::span<std::optional<DecodeHead>> heads, ReadOrder& order)
      : heads_(heads), order_(order) {
    for (std::size_t i = 0; i < heads.size(); ++i) rows_[i] = &heads[i]->rows();
    order.begin(kernels, std::span(rows_).first(heads.size()));
  }

  void run() {
    const DecodeHead& first = *heads_.front();
    const TaskRange& task = first.task();
    for (auto& head : heads_) head->begin(order_);
    for (std::int64_t split = task.split_begin; split < task.split_end; ++split) {
      const std::optional<KeyRange> keys = first.keys_of_split(split);
      if (!keys) continue;
      task.enter(Phase::decode);
      for (const auto& head : heads_) head->begin_split();
      for (std::int64_t block = keys->first; block < keys->last; block += kBlockKeys) {
        const KeyRange seen = first.seen_of_block(block, keys->last);
        if (!seen.empty()) run_block(seen, first.after(seen));
      }
      task.enter(Phase::merge);
      for (const auto& head : heads_) head->end_split(split);
    }
    for (const auto& head : heads_) head->end();
  }

 private:
  void run_block(const KeyRange& block, const KeyRange& next) {
    for (auto& head : heads_) head->begin_block(block, order_.part_keys());
    order_.set(block, next);
    for_each_part(block, [&](std::int64_t part, const KeyRange& keys, std::size_t i) {
      heads_[i]->score(keys, order_.from_keys(part, i));
    });
    for (std::size_t i = 0; i < heads_.size(); ++i) heads_[i]->apply_softmax(order_.from_values(0, i));
    for_each_part(block, [&](std::int64_t part, const KeyRange& keys, std::size_t i) {
      heads_[i]->add_values(keys, order_.from_values(part, i));
    });
  }
  /// Visits each part for all heads before the next part.
  template <class Visit>
  void for_each_part(const KeyRange& block, Visit visit) const {
    const std::int64_t count = block.last - block.first;
    for (std::int64_t part = 0, first = 0; first < count; ++part, first += order_.part_keys()) {
      const KeyRange keys{first, min_of(first + order_.part_keys(), count)};
      for (std::size_t i = 0; i < heads_.size(); ++i) visit(part, keys, i);
    }
  }

  std::span<std::optional<DecodeHead>> heads_;
  std::array<const DecodeRows*, kMaxDecodeHeads> rows_;
  ReadOrder& order_;
};

}  // namespace

std::size_t decode_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                 std::int64_t v_head_dim) {
  return decode_heads_scratch_bytes(kernels, 1, rows, head_dim, v_head_dim);
}

void decode_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& task,
                std::byte* memory) noexcept {
  Carver carver(memory);
  ReadOrder order(carver, 1);
  std::optional<DecodeHead> one(std::in_place, kernels, head, task, carver);
  HeadsInTurn(kernels, {&one, 1}, order).run();
}

std::size_t decode_heads_scratch_bytes(const KernelSet& kernels, std::int64_t heads, std::int64_t rows,
                                       std::int64_t head_dim, std::int64_t v_head_dim) {
  Carver carver(nullptr);
  ReadOrder(carver, heads);
  for (std::int64_t i = 0; i < heads; ++i) DecodeScratch(carver, kernels, rows, head_dim, v_head_dim);
  return carver.used();
}

void decode_heads_run(const KernelSet& kernels, std::span<const HeadTask> tasks, std::byte* memory) noexcept {
  Carver carver(memory);
  ReadOrder order(carver, static_cast<std::int64_t>(tasks.size()));
  std::array<std::optional<DecodeHead>, kMaxDecodeHeads> heads;
  std::size_t count = 0;
  for (const auto& [head, task] : tasks) heads[count++].emplace(kernels, head, task, carver);
  HeadsInTurn(kernels, std::span(heads).first(count), order).run();
}

}  // namespace kumiko::kernels
