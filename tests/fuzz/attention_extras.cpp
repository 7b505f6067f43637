// SPDX-License-Identifier: Apache-2.0
// What a problem has of sinks, forms of the LSE, and causality and prefixes of each sequence, drawn and
// broken.
#include "tests/fuzz/attention_problem.h"

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

void AttentionProblem::change_extras(Input& input) {
  switch (input.below(6)) {
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
  if (a.window_sink_tokens < 0) return false;
  return (a.lse_with_sink | 1) == 1 && (a.lse_base | 1) == 1;
}

}  // namespace kumiko::fuzz
