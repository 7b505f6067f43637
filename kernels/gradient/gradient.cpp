// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/gradient.h"

namespace kumiko::kernels {

#define KUMIKO_GRADIENT(name, isa, lanes) void name##_scores(const GradientArgs&) noexcept;
#include "kernels/gradient/kernels.inc"
#undef KUMIKO_GRADIENT

std::span<const GradientKernel> gradient_kernels() {
  static constexpr GradientKernel kRows[] = {
#define KUMIKO_GRADIENT(name, isa, lanes) {#name, Isa::isa, lanes, name##_scores},
#include "kernels/gradient/kernels.inc"
#undef KUMIKO_GRADIENT
  };
  return kRows;
}

const GradientKernel* find_gradient(Isa isa) {
  for (const GradientKernel& row : gradient_kernels()) {
    if (row.isa == isa) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_gradient(base_of(isa));
}

}  // namespace kumiko::kernels
