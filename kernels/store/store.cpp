#include "kernels/store/store.h"

namespace kumiko::kernels {

#define KUMIKO_STORE(name, isa, element, lanes)    \
  void name##_tile(const StoreTileArgs&) noexcept; \
  void name##_row(const StoreRowArgs&) noexcept;
#include "kernels/store/kernels.inc"
#undef KUMIKO_STORE

std::span<const StoreRow> store_rows() {
  static constexpr StoreRow kRows[] = {
#define KUMIKO_STORE(name, isa, element, lanes) \
  {#name, Isa::isa, Element::element, lanes, name##_tile, name##_row},
#include "kernels/store/kernels.inc"
#undef KUMIKO_STORE
  };
  return kRows;
}

const StoreRow* find_store(Isa isa, Element element) {
  for (const StoreRow& row : store_rows()) {
    if (row.isa == isa && row.element == element) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_store(base_of(isa), element);
}

}  // namespace kumiko::kernels
