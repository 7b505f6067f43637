#include "kernels/score_tile/score_tile.h"

namespace kumiko::kernels {

#define KUMIKO_SCORE_TILE(name, isa, lanes)             \
  void name##_load_f32(const LoadScoresArgs&) noexcept; \
  void name##_load_i32(const LoadScoresArgs&) noexcept; \
  void name##_zero_hidden(const MaskArgs& args) noexcept;
#include "kernels/score_tile/kernels.inc"
#undef KUMIKO_SCORE_TILE

std::span<const ScoreTileRow> score_tile_rows() {
  static constexpr ScoreTileRow kRows[] = {
#define KUMIKO_SCORE_TILE(name, isa, lanes) \
  {#name, Isa::isa, lanes, name##_load_f32, name##_load_i32, name##_zero_hidden},
#include "kernels/score_tile/kernels.inc"
#undef KUMIKO_SCORE_TILE
  };
  return kRows;
}

const ScoreTileRow* find_score_tile(Isa isa) {
  for (const ScoreTileRow& row : score_tile_rows()) {
    if (row.isa == isa) return &row;
  }
  return base_of(isa) == isa ? &score_tile_rows().back() : find_score_tile(base_of(isa));
}

}  // namespace kumiko::kernels
