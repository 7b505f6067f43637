// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/gemm.h"

#define KUMIKO_GEMM(name, isa, product, mr, nr)     \
  extern "C" {                                      \
  void name##_init(const GemmArgs*) noexcept;       \
  void name##_init_max(const GemmArgs*) noexcept;   \
  void name##_accumulate(const GemmArgs*) noexcept; \
  }
namespace kumiko::kernels {
#include "kernels/gemm/kernels.inc"
#undef KUMIKO_GEMM

std::span<const GemmKernel> gemm_kernels() {
  static constexpr GemmKernel kRows[] = {
#define KUMIKO_GEMM(name, isa, product, mr, nr) \
  {#name, Isa::isa, Element::product, mr, nr, name##_init, name##_init_max, name##_accumulate},
#include "kernels/gemm/kernels.inc"
#undef KUMIKO_GEMM
  };
  return kRows;
}

const GemmKernel* find_gemm(Isa isa, Element product, int nr) {
  for (const GemmKernel& row : gemm_kernels()) {
    if (row.isa == isa && row.product == product && row.nr == nr) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_gemm(base_of(isa), product, nr);
}

}  // namespace kumiko::kernels
