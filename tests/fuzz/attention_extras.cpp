// SPDX-License-Identifier: Apache-2.0
// What a problem has of sinks, forms of the LSE, and causality and prefixes of each sequence, drawn and
// broken.
#include <algorithm>

#include "tests/fuzz/attention_problem.h"
#include "tests/fuzz/packed_sequences.h"

namespace kumiko::fuzz {

void AttentionProblem::draw_extras(Input& input) {
  const int how = input.byte();
  if (how & 1) args_.sinks = nullptr;
  args_.lse_with_sink = how >> 1 & 1;
  args_.lse_base = how >> 2 & 1;
  // One beyond every score, or none.
  if (how & 8) {
    buffers_[kSinks].sprinkle(3, 1, how & 16 ? -std::numeric_limits<double>::infinity() : 1e4);
  }
  if (how & 32) draw_key_tiles();
}

// The same memory as tiles, where they fit into it.
void AttentionProblem::draw_key_tiles() {
  kumiko_attention_args tiles = args_;
  tiles.key_layout = KUMIKO_KEY_TILES_OF_16;
  const std::int64_t *shape = tiles.k.shape, width = keys_in_memory(tiles).shape[3];
  const std::int64_t stride[4] = {shape[1] * shape[2] * width, shape[2] * width, width, 1};
  std::copy(stride, stride + 4, tiles.k.stride);
  const Wide bytes = static_cast<Wide>(shape[0]) * stride[0] * bytes_of(tiles.k.dtype);
  if (has_sane_key_layout(tiles) && bytes <= static_cast<Wide>(buffers_[kK].size())) args_ = tiles;
}

void AttentionProblem::draw_sequence_visibility(Input& input) {
  const kumiko_attention_args a = seen();
  const auto count = static_cast<std::size_t>(sequences(a));
  const int how = input.byte();
  causal_.resize(count), prefixes_.resize(count);
  causal_.shrink_to_fit(), prefixes_.shrink_to_fit();
  causal_.reserve(1), prefixes_.reserve(1);  // an address where there are no sequences, too
  for (std::size_t b = 0; b < count; ++b) {
    causal_[b] = static_cast<std::uint8_t>(how >> (b % 3) & 1);
    if (how & 16) prefixes_[b] = static_cast<std::int32_t>(input.byte() * (keys(a) + 3) / 255);
  }
  static constexpr std::int64_t kFirstTokens[] = {1, 2, 5, 17, 256, 300, 600};
  if (how & 32) args_.window_sink_tokens = input.pick(kFirstTokens);
  if (how & 8) args_.causal_sequences = causal_.data();
  if (how & 16) args_.prefix_lens = prefixes_.data();
  complete_table(seen());
}

void AttentionProblem::draw_row_max(Input& input) {
  const int how = input.byte(), step = how & 2 ? 2 : 1;
  const std::int64_t heads = args_.q.shape[1], q_len = args_.q.shape[2],
                     rows = args_.q.shape[0] * heads * q_len;
  buffers_[kRowMax] = Buffer(rows > 0 ? (rows - 1) * step + 1 : 0, KUMIKO_F32, true);
  void* const row_max = buffers_[kRowMax].data();
  if (how & 1) args_.row_max = static_cast<float*>(row_max);
  const std::int64_t stride[3] = {heads * q_len * step, q_len * step, step};
  if (how & 6) std::copy(stride, stride + 3, args_.row_max_stride);
}

// The bytes of the queries and keys as int8, of which there are as many elements or more. Scales are the
// slopes of ALiBi, where these are enough, or one for all, and small: scores stay below 1000.
void AttentionProblem::draw_int8(Input& input) {
  const int how = input.byte();
  if ((how & 3) != 3 || args_.key_layout != KUMIKO_KEY_ROWS) return;
  args_.q.dtype = args_.k.dtype = KUMIKO_I8;
  Buffer& scales = buffers_[kSlopes];
  if (how & 4 && scales.size() >= sizeof(float)) {
    args_.q_scale = args_.k_scale = static_cast<const float*>(scales.data());
    scales.sprinkle(21, 1, 1.0 / 64);
    const auto heads = static_cast<std::int64_t>(scales.size() / sizeof(float));
    if (how & 8 && args_.q.shape[1] <= heads) args_.q_scale_stride[1] = 1;
    if (how & 16 && args_.k.shape[1] <= heads) args_.k_scale_stride[1] = 1;
  } else {
    args_.scale = 1.0f / 4096;
  }
  if (how & 32) args_.precision = KUMIKO_PRECISION_INT8;
}

void AttentionProblem::change_extras(Input& input) {
  switch (input.below(10)) {
    case 8:
      (input.one_in(2) ? args_.q_scale_stride : args_.k_scale_stride)[input.below(3)] = input.number();
      return;
    case 9:
      (input.one_in(2) ? args_.q_scale : args_.k_scale) = static_cast<const float*>(
          input.one_in(3) ? nullptr : buffers_[input.byte() % buffers_.size()].data());
      return;
    case 6:
      args_.row_max_stride[input.below(3)] = input.number();
      return;
    case 7:
      args_.key_layout = input.one_in(2) ? input.below(3) : input.number();
      return;
    case 2:
      args_.window_sink_tokens = input.number();
      return;
    case 3:
      args_.causal_sequences = input.one_in(4) ? nullptr : causal_.data();
      if (!causal_.empty())
        causal_[input.byte() % causal_.size()] = static_cast<std::uint8_t>(input.number());
      return;
    case 4:
      args_.prefix_lens = input.one_in(4) ? nullptr : prefixes_.data();
      if (!prefixes_.empty())
        prefixes_[input.byte() % prefixes_.size()] = static_cast<std::int32_t>(input.number());
      return;
    case 0:
      args_.lse_with_sink = static_cast<std::int32_t>(input.number());
      return;
    case 1:
      args_.lse_base = static_cast<std::int32_t>(input.number());
      return;
    default:
      args_.sinks = input.one_in(2)
                        ? nullptr
                        : static_cast<const float*>(buffers_[input.byte() % buffers_.size()].data());
      return;
  }
}

bool AttentionProblem::has_sane_extras(const kumiko_attention_args& a) const {
  for (std::int64_t b = 0; a.causal_sequences && b < sequences(a); ++b) {
    if (a.causal_sequences[b] > 1) return false;
  }
  for (std::int64_t b = 0; a.prefix_lens && b < sequences(a); ++b) {
    if (a.prefix_lens[b] < 0) return false;
  }
  if (a.window_sink_tokens < 0 || !has_sane_key_layout(a)) return false;
  return (a.lse_with_sink | 1) == 1 && (a.lse_base | 1) == 1;
}

}  // namespace kumiko::fuzz
