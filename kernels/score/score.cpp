#include "kernels/score/score.h"

namespace kumiko::kernels {

#define KUMIKO_SCORE(name, isa, lanes)             \
  void name##_tile(const ScoreTileArgs&) noexcept; \
  void name##_row(const ScoreRowArgs&) noexcept;   \
  void name##_tanh(const float*, float*, std::int64_t) noexcept;
#include "kernels/score/kernels.inc"
#undef KUMIKO_SCORE

std::span<const ScoreRow> score_rows() {
  static constexpr ScoreRow kRows[] = {
#define KUMIKO_SCORE(name, isa, lanes) {#name, Isa::isa, lanes, name##_tile, name##_row, name##_tanh},
#include "kernels/score/kernels.inc"
#undef KUMIKO_SCORE
  };
  return kRows;
}

const ScoreRow* find_score(Isa isa) {
  for (const ScoreRow& row : score_rows()) {
    if (row.isa == isa) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_score(base_of(isa));
}

}  // namespace kumiko::kernels
