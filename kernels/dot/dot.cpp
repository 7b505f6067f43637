#include "kernels/dot/dot.h"

namespace kumiko::kernels {

#define KUMIKO_DOT(name, isa, element, lanes, score_keys) void name(const DecodeBlockArgs&) noexcept;
#include "kernels/dot/kernels.inc"
#undef KUMIKO_DOT

std::span<const DotRow> dot_rows() {
  static constexpr DotRow kRows[] = {
#define KUMIKO_DOT(name, isa, element, lanes, score_keys) \
  {#name, Isa::isa, Element::element, lanes, score_keys, name},
#include "kernels/dot/kernels.inc"
#undef KUMIKO_DOT
  };
  return kRows;
}

const DotRow* find_dot(Isa isa, Element element) {
  for (const DotRow& row : dot_rows()) {
    if (row.isa == isa && row.element == element) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_dot(base_of(isa), element);
}

}  // namespace kumiko::kernels
