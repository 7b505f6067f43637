// SPDX-License-Identifier: Apache-2.0
#include "kernels/state/state.h"

#include <cmath>

#include "kernels/element.h"

namespace kumiko::kernels {

#define KUMIKO_STATE(name, isa, lanes)                   \
  void name##_merge_tile(const MergeTileArgs&) noexcept; \
  void name##_merge_row(const MergeRowArgs&) noexcept;
#include "kernels/state/kernels.inc"
#undef KUMIKO_STATE

std::span<const StateKernel> state_kernels() {
  static constexpr StateKernel kRows[] = {
#define KUMIKO_STATE(name, isa, lanes) {#name, Isa::isa, lanes, name##_merge_tile, name##_merge_row},
#include "kernels/state/kernels.inc"
#undef KUMIKO_STATE
  };
  return kRows;
}

const StateKernel* find_state(Isa isa) {
  for (const StateKernel& row : state_kernels()) {
    if (row.isa == isa) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_state(base_of(isa));
}

float log_sum_exp(float m, float l) {
  // In double: m and log2(l) may cancel, and one call per row costs little.
  constexpr double kLn2 = 0.693147180559945309417;
  if (l == 0.0f) return -INFINITY;
  return canonical(static_cast<float>((static_cast<double>(m) + std::log2(static_cast<double>(l))) * kLn2));
}

}  // namespace kumiko::kernels
