// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/arm_sve512_transpose.h"
#include "kernels/score_tile/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {
/// Scores are transposed into a tile, as queries into a panel, and their maxima are found. The next block is
/// fetched into L2: rows whose length is a power of two fall into one set of each cache, and L1 has 4 ways.
void score_tile_f32_sve512_load_f32(const LoadScoresArgs& args) noexcept {
  constexpr std::int64_t kLine = 64;  // floats
  for (std::int64_t n = 0; n < args.rows_used; ++n) {
    const float* const next = static_cast<const float*>(args.rows[n]) + args.kv;
    for (std::int64_t j = 0; j < args.kv; j += kLine) __builtin_prefetch(next + j, 0, 2);
  }
  turn_panel({args.rows, args.rows_used, args.nr, args.kv, args.scale, args.s}, args.block_max,
             score_tile_f32_sve512_turn);
}

void score_tile_f32_sve512_load_i32(const LoadScoresArgs& args) noexcept {
  load_scores<Sve512, std::int32_t>(args);
}

void score_tile_f32_sve512_zero_hidden(const MaskArgs& args) noexcept {
  zero_hidden<Sve512>(args);
}

}  // namespace kumiko::kernels
