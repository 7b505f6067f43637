// SPDX-License-Identifier: Apache-2.0
#include "kernels/gemm/panels.h"

#define KUMIKO_PANEL(name, isa, type, mr, nr)        \
  extern "C" {                                       \
  void name##_init(const PanelArgs*) noexcept;       \
  void name##_accumulate(const PanelArgs*) noexcept; \
  }
namespace kumiko::kernels {
#include "kernels/gemm/panels.inc"
#undef KUMIKO_PANEL

const char* name(PanelType type) {
  switch (type) {
    case PanelType::i8:
      return "i8";
    case PanelType::f16_blocked:
      break;
  }
  return "f16_blocked";
}

std::span<const PanelKernel> panel_kernels() {
  static constexpr PanelKernel kRows[] = {
#define KUMIKO_PANEL(name, isa, type, mr, nr) \
  {#name, Isa::isa, PanelType::type, mr, nr, name##_init, name##_accumulate},
#include "kernels/gemm/panels.inc"
#undef KUMIKO_PANEL
  };
  return kRows;
}

const PanelKernel* find_panel(Isa isa, PanelType type) {
  for (const Isa candidate : {isa, base_of(isa)}) {
    for (const PanelKernel& row : panel_kernels()) {
      if (row.isa == candidate && row.type == type) return &row;
    }
  }
  return nullptr;
}

}  // namespace kumiko::kernels
