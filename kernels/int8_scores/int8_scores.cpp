// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/int8_scores.h"

namespace kumiko::kernels {

#define KUMIKO_INT8_SCORES_3(name)              \
  void name##_tile_1(const GemmArgs*) noexcept; \
  void name##_tile_2(const GemmArgs*) noexcept; \
  void name##_tile_3(const GemmArgs*) noexcept;
#define KUMIKO_INT8_SCORES_1(name) void name##_tile_1(const GemmArgs*) noexcept;
#define KUMIKO_INT8_SCORES(name, isa, extension, mr, lanes, per_step, has_starts, widths) \
  void name##_query(const Int8QueryArgs&) noexcept;                                       \
  void name##_key(const Int8KeyArgs&) noexcept;                                           \
  extern "C" {                                                                            \
  KUMIKO_INT8_SCORES_##widths(name)                                                       \
  }
#include "kernels/int8_scores/kernels.inc"
#undef KUMIKO_INT8_SCORES
#undef KUMIKO_INT8_SCORES_1
#undef KUMIKO_INT8_SCORES_3

std::span<const Int8ScoresKernel> int8_scores_kernels() {
  static constexpr Int8ScoresKernel kRows[] = {
#define KUMIKO_INT8_SCORES_3(name) \
  { name##_tile_1, name##_tile_2, name##_tile_3 }
#define KUMIKO_INT8_SCORES_1(name) \
  { name##_tile_1, nullptr, nullptr }
#define KUMIKO_INT8_SCORES(name, isa, extension, mr, lanes, per_step, has_starts, widths) \
  {#name,    Isa::isa,   Extension::extension, mr,         lanes,                         \
   per_step, has_starts, name##_query,         name##_key, KUMIKO_INT8_SCORES_##widths(name)},
#include "kernels/int8_scores/kernels.inc"
#undef KUMIKO_INT8_SCORES
  };
  return kRows;
}

const Int8ScoresKernel* find_int8_scores(Isa isa) {
  for (const Int8ScoresKernel& row : int8_scores_kernels()) {
    if (row.isa == isa && host_has(row.extension)) return &row;
  }
  return base_of(isa) == isa ? nullptr : find_int8_scores(base_of(isa));
}

}  // namespace kumiko::kernels
