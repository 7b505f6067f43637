// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/gradient.h"

namespace kumiko::kernels {

#define KUMIKO_GRADIENT(name, isa, product, lanes) void name##_scores(const GradientArgs&) noexcept;
#include "kernels/gradient/kernels.inc"
#undef KUMIKO_GRADIENT

std::span<const GradientKernel> gradient_kernels() {
  static constexpr GradientKernel kRows[] = {
#define KUMIKO_GRADIENT(name, isa, product, lanes) {#name, Isa::isa, Element::product, lanes, name##_scores},
#include "kernels/gradient/kernels.inc"
#undef KUMIKO_GRADIENT
  };
  return kRows;
}

const GradientKernel* find_gradient(Isa isa, Element product) {
  for (const GradientKernel& row : gradient_kernels()) {
    if (row.isa == isa && row.product == product) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_gradient(base_of(isa), product);
}

}  // namespace kumiko::kernels
