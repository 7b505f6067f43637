// SPDX-License-Identifier: Apache-2.0
#include "kernels/key_tiles/key_tiles.h"

namespace kumiko::kernels {

#define KUMIKO_KEY_TILES(name, isa, element, mr)        \
  void name##_scores(const DecodeScoresArgs&) noexcept; \
  void name##_panels(const TilePanelsArgs&) noexcept;   \
  void name##_from_rows(const TileRowsArgs&) noexcept;  \
  void name##_to_rows(const TileRowsArgs&) noexcept;
#include "kernels/key_tiles/kernels.inc"
#undef KUMIKO_KEY_TILES

std::span<const KeyTilesKernel> key_tiles_kernels() {
  static constexpr KeyTilesKernel kRows[] = {
#define KUMIKO_KEY_TILES(name, isa, element, mr) \
  {#name, Isa::isa, Element::element, mr, name##_scores, name##_panels, name##_from_rows, name##_to_rows},
#include "kernels/key_tiles/kernels.inc"
#undef KUMIKO_KEY_TILES
  };
  return kRows;
}

const KeyTilesKernel* find_key_tiles(Isa isa, Element element) {
  for (const KeyTilesKernel& row : key_tiles_kernels()) {
    if (row.isa == isa && row.element == element) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_key_tiles(base_of(isa), element);
}

}  // namespace kumiko::kernels
