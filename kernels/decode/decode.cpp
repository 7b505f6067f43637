// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/decode.h"

namespace kumiko::kernels {

#define KUMIKO_DECODE(name, isa, element, product, lanes, score_keys) \
  void name##_scores(const DecodeScoresArgs&) noexcept;               \
  void name##_softmax(const DecodeSoftmaxArgs&) noexcept;             \
  void name##_add_values(const DecodeValuesArgs&) noexcept;
#include "kernels/decode/kernels.inc"
#undef KUMIKO_DECODE

std::span<const DecodeKernel> decode_kernels() {
  static constexpr DecodeKernel kRows[] = {
#define KUMIKO_DECODE(name, isa, element, product, lanes, score_keys)    \
  {#name,      Isa::isa,      Element::element, Element::product, lanes, \
   score_keys, name##_scores, name##_softmax,   name##_add_values},
#include "kernels/decode/kernels.inc"
#undef KUMIKO_DECODE
  };
  return kRows;
}

const DecodeKernel* find_decode(Isa isa, Element element, Element product) {
  for (const DecodeKernel& row : decode_kernels()) {
    if (row.isa == isa && row.element == element && row.product == product) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_decode(base_of(isa), element, product);
}

}  // namespace kumiko::kernels
