#include "kernels/gemm/gemm.h"

#define KUMIKO_GEMM(name, isa, mr, nr)              \
  extern "C" {                                      \
  void name##_init(const GemmArgs*) noexcept;       \
  void name##_init_max(const GemmArgs*) noexcept;   \
  void name##_accumulate(const GemmArgs*) noexcept; \
  }
namespace kumiko::kernels {
#include "kernels/gemm/kernels.inc"
#undef KUMIKO_GEMM

std::span<const GemmRow> gemm_rows() {
  static constexpr GemmRow kRows[] = {
#define KUMIKO_GEMM(name, isa, mr, nr) \
  {#name, Isa::isa, mr, nr, name##_init, name##_init_max, name##_accumulate},
#include "kernels/gemm/kernels.inc"
#undef KUMIKO_GEMM
  };
  return kRows;
}

const GemmRow* find_gemm(Isa isa, int nr) {
  for (const GemmRow& row : gemm_rows()) {
    if (row.isa == isa && row.nr == nr) return &row;
  }
  return nullptr;
}

}  // namespace kumiko::kernels
