// SPDX-License-Identifier: Apache-2.0
#include "kernels/store/store.h"

namespace kumiko::kernels {

#define KUMIKO_STORE(name, isa, element, lanes)    \
  void name##_tile(const StoreTileArgs&) noexcept; \
  void name##_row(const StoreRowArgs&) noexcept;
#include "kernels/store/kernels.inc"
#undef KUMIKO_STORE

std::span<const StoreKernel> store_kernels() {
  static constexpr StoreKernel kRows[] = {
#define KUMIKO_STORE(name, isa, element, lanes) \
  {#name, Isa::isa, Element::element, lanes, name##_tile, name##_row},
#include "kernels/store/kernels.inc"
#undef KUMIKO_STORE
  };
  return kRows;
}

const StoreKernel* find_store(Isa isa, Element element) {
  for (const StoreKernel& row : store_kernels()) {
    if (row.isa == isa && row.element == element) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_store(base_of(isa), element);
}

}  // namespace kumiko::kernels
