// SPDX-License-Identifier: Apache-2.0
#include "kernels/append/append.h"

#ifdef __x86_64__
#include <xmmintrin.h>
#endif

namespace kumiko::kernels {

#define KUMIKO_APPEND(isa, from, to) void append_##from##_to_##to##_##isa(const AppendArgs&) noexcept;
#include "kernels/append/kernels.inc"
#undef KUMIKO_APPEND

std::span<const AppendKernel> append_kernels() {
  static constexpr AppendKernel kRows[] = {
#define KUMIKO_APPEND(isa, from, to)                                          \
  {"append_" #from "_to_" #to "_" #isa, Isa::isa, Element::from, Element::to, \
   append_##from##_to_##to##_##isa},
#include "kernels/append/kernels.inc"
#undef KUMIKO_APPEND
  };
  return kRows;
}

const AppendKernel* find_append(Isa isa, Element from, Element to) {
  for (const AppendKernel& row : append_kernels()) {
    if (row.isa == isa && row.from == from && row.to == to) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_append(base_of(isa), from, to);
}

void finish_streams() noexcept {
#ifdef __x86_64__
  _mm_sfence();
#endif
}

}  // namespace kumiko::kernels
