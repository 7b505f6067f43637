// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/softmax.h"

namespace kumiko::kernels {

#define KUMIKO_SOFTMAX(name, isa, product, lanes)         \
  void name##_mask_scores(const MaskArgs&) noexcept;      \
  void name##_probabilities(const SoftmaxArgs&) noexcept; \
  void name##_weights(const SoftmaxArgs&) noexcept;       \
  void name##_exp2(const float*, float*, std::int64_t) noexcept;
#include "kernels/softmax/kernels.inc"
#undef KUMIKO_SOFTMAX

std::span<const SoftmaxKernel> softmax_kernels() {
  static constexpr SoftmaxKernel kRows[] = {
#define KUMIKO_SOFTMAX(name, isa, product, lanes)                                                 \
  {#name,          Isa::isa,   Element::product, lanes, name##_mask_scores, name##_probabilities, \
   name##_weights, name##_exp2},
#include "kernels/softmax/kernels.inc"
#undef KUMIKO_SOFTMAX
  };
  return kRows;
}

const SoftmaxKernel* find_softmax(Isa isa, Element product) {
  for (const SoftmaxKernel& row : softmax_kernels()) {
    if (row.isa == isa && row.product == product) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_softmax(base_of(isa), product);
}

}  // namespace kumiko::kernels
