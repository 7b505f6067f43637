// SPDX-License-Identifier: Apache-2.0
#include "kernels/score/score.h"

namespace kumiko::kernels {

#define KUMIKO_SCORE(name, isa, lanes)             \
  void name##_tile(const ScoreTileArgs&) noexcept; \
  void name##_row(const ScoreRowArgs&) noexcept;   \
  void name##_tanh(const float*, float*, std::int64_t) noexcept;
#include "kernels/score/kernels.inc"
#undef KUMIKO_SCORE

std::span<const ScoreKernel> score_kernels() {
  static constexpr ScoreKernel kRows[] = {
#define KUMIKO_SCORE(name, isa, lanes) {#name, Isa::isa, lanes, name##_tile, name##_row, name##_tanh},
#include "kernels/score/kernels.inc"
#undef KUMIKO_SCORE
  };
  return kRows;
}

const ScoreKernel* find_score(Isa isa) {
  for (const ScoreKernel& row : score_kernels()) {
    if (row.isa == isa) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_score(base_of(isa));
}

}  // namespace kumiko::kernels
