// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/gemm.h"

#define KUMIKO_GEMM(name, isa, product, mr, nr)     \
  extern "C" {                                      \
  void name##_init(const GemmArgs*) noexcept;       \
  void name##_init_max(const GemmArgs*) noexcept;   \
  void name##_accumulate(const GemmArgs*) noexcept; \
  }
#define KUMIKO_GEMM_TRANSPOSED(name, isa, mr, nr)              \
  extern "C" {                                                 \
  void name##_init_transposed(const GemmArgs*) noexcept;       \
  void name##_accumulate_transposed(const GemmArgs*) noexcept; \
  }
namespace kumiko::kernels {
#include "kernels/gemm/kernels.inc"
#include "kernels/gemm/transposed.inc"
#undef KUMIKO_GEMM
#undef KUMIKO_GEMM_TRANSPOSED

std::span<const GemmKernel> gemm_kernels() {
  static constexpr GemmKernel kRows[] = {
#define KUMIKO_GEMM(name, isa, product, mr, nr) \
  {#name, Isa::isa, Element::product, mr, nr, name##_init, name##_init_max, name##_accumulate},
#include "kernels/gemm/kernels.inc"
#undef KUMIKO_GEMM
  };
  return kRows;
}

std::span<const TransposedGemmKernel> transposed_gemm_kernels() {
  static constexpr TransposedGemmKernel kRows[] = {
#define KUMIKO_GEMM_TRANSPOSED(name, isa, mr, nr) \
  {#name "_transposed", Isa::isa, mr, nr, name##_init_transposed, name##_accumulate_transposed},
#include "kernels/gemm/transposed.inc"
#undef KUMIKO_GEMM_TRANSPOSED
  };
  return kRows;
}

const TransposedGemmKernel* find_transposed_gemm(Isa isa, Element product, int nr) {
  if (product != Element::f32) return nullptr;
  for (const TransposedGemmKernel& row : transposed_gemm_kernels()) {
    if (row.isa == isa && row.nr == nr) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_transposed_gemm(base_of(isa), product, nr);
}

const GemmKernel* find_gemm(Isa isa, Element product, int nr) {
  for (const GemmKernel& row : gemm_kernels()) {
    if (row.isa == isa && row.product == product && row.nr == nr) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_gemm(base_of(isa), product, nr);
}

}  // namespace kumiko::kernels
