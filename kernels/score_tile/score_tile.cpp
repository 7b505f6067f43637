// SPDX-License-Identifier: Apache-2.0
#include "kernels/score_tile/score_tile.h"

namespace kumiko::kernels {

#define KUMIKO_SCORE_TILE(name, isa, lanes)             \
  void name##_load_f32(const LoadScoresArgs&) noexcept; \
  void name##_load_i32(const LoadScoresArgs&) noexcept; \
  void name##_zero_hidden(const MaskArgs& args) noexcept;
#include "kernels/score_tile/kernels.inc"
#undef KUMIKO_SCORE_TILE

std::span<const ScoreTileKernel> score_tile_kernels() {
  static constexpr ScoreTileKernel kRows[] = {
#define KUMIKO_SCORE_TILE(name, isa, lanes) \
  {#name, Isa::isa, lanes, name##_load_f32, name##_load_i32, name##_zero_hidden},
#include "kernels/score_tile/kernels.inc"
#undef KUMIKO_SCORE_TILE
  };
  return kRows;
}

const ScoreTileKernel* find_score_tile(Isa isa) {
  for (const ScoreTileKernel& row : score_tile_kernels()) {
    if (row.isa == isa) return &row;
  }
  return base_of(isa) == isa ? &score_tile_kernels().back() : find_score_tile(base_of(isa));
}

}  // namespace kumiko::kernels
