// SPDX-License-Identifier: Apache-2.0
// What a problem has of sinks and of forms of the LSE, drawn and broken.
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

void AttentionProblem::change_extras(Input& input) {
  switch (input.below(3)) {
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
  return (a.lse_with_sink | 1) == 1 && (a.lse_base | 1) == 1;
}

}  // namespace kumiko::fuzz
