// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/pack.h"

namespace kumiko::kernels {

#define KUMIKO_PACK(name, isa, element, product, mr, lanes) \
  void name##_query(const PackQueryArgs&) noexcept;         \
  void name##_key(const PackKeyArgs&) noexcept;             \
  bool name##_value(const PackValueArgs&) noexcept;
#include "kernels/pack/kernels.inc"
#undef KUMIKO_PACK

std::span<const PackKernel> pack_kernels() {
  static constexpr PackKernel kRows[] = {
#define KUMIKO_PACK(name, isa, element, product, mr, lanes) \
  {#name, Isa::isa, Element::element, Element::product, mr, lanes, name##_query, name##_key, name##_value},
#include "kernels/pack/kernels.inc"
#undef KUMIKO_PACK
  };
  return kRows;
}

const PackKernel* find_pack(Isa isa, Element element) {
  for (const PackKernel& row : pack_kernels()) {
    if (row.isa == isa && row.element == element) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_pack(base_of(isa), element);
}

const PackKernel* find_pack(Isa isa, Element element, Element product) {
  for (const PackKernel& row : pack_kernels()) {
    if (row.isa == isa && row.element == element && row.product == product) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_pack(base_of(isa), element, product);
}

}  // namespace kumiko::kernels
