// SPDX-License-Identifier: Apache-2.0
#include "kernels/state/state.h"

#include <cmath>

#include "kernels/element.h"
#include "kernels/score/score.h"

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

namespace {

constexpr double kLn2 = 0.693147180559945309417;

}  // namespace

float log_sum_exp(float m, float l, bool is_base_2) {
  // In double: m and log2(l) may cancel, and one call per row costs little.
  if (l == 0.0f) return -INFINITY;
  return canonical(static_cast<float>((static_cast<double>(m) + std::log2(static_cast<double>(l))) *
                                      (is_base_2 ? 1.0 : kLn2)));
}

float row_maximum(float m, float l) {
  // Rounded like the LSE, which is therefore never below it: a sum is at least the 1 of its largest score.
  // Adding 0 makes every zero +0: which of two zeros m is depends on the order in which keys are compared.
  return canonical(std::isnan(l) ? l : static_cast<float>(static_cast<double>(m) * kLn2 + 0.0));
}

RowEnd end_with_sink(const StateKernel& kernel, float m, float l, float sink, const LseForm& form) {
  const RowEnd without{inverse_sum(l), log_sum_exp(m, l, form.is_base_2)};
  if (sink == -INFINITY) return without;
  const float sink_m = sink * kLog2e;
  const float sink_lse = canonical(form.is_base_2 ? sink_m : sink);
  RowEnd end{};
  if (l == 0.0f) {
    end = {0.0f, sink_lse};
  } else if (std::isnan(l)) {
    end = {NAN, canonical(NAN)};
  } else if (std::isinf(sink_m)) {  // infinite itself, or beyond every finite score
    end = sink > 0.0f ? RowEnd{0.0f, sink_lse} : without;
  } else {
    float sum_m = m, sum_l = l, scale = 1.0f;
    const float zero = 0.0f;
    kernel.merge_row({&sum_m, &sum_l, &scale, sink_m, 1.0f, &zero, 1});
    end = {scale / sum_l, log_sum_exp(sum_m, sum_l, form.is_base_2)};
  }
  if (!form.with_sink) end.lse = without.lse;
  return end;
}

}  // namespace kumiko::kernels
