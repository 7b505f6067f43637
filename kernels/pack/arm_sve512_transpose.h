// SPDX-License-Identifier: Apache-2.0
// 16 rows to columns: the arguments of arm_sve512_transpose.S, which knows their offsets.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/pack/pack.h"

namespace kumiko::kernels {

struct TransposeArgs {
  const void* const* rows;  ///< [16], all of them readable
  std::int64_t used;        ///< 0..16; the other rows count as 0
  std::int64_t dim;
  void* dst;
  union {
    std::int64_t pitch;  ///< query, scores: bytes from one dim to the next
    void* second;        ///< key: the panel of rows 8 to 15, written only if it exists
  };
  float scale;           ///< query, scores
  float* max = nullptr;  ///< scores: [16] raised to the largest number in each row
};
static_assert(offsetof(TransposeArgs, used) == 8 && offsetof(TransposeArgs, dim) == 16 &&
              offsetof(TransposeArgs, dst) == 24 && offsetof(TransposeArgs, pitch) == 32 &&
              offsetof(TransposeArgs, scale) == 40 && offsetof(TransposeArgs, max) == 48);

namespace {  // one copy per file, as in kernels/simd

/// Makes a panel of queries or, with `max` ([nr], else nullptr), a tile of scores.
void turn_panel(const PackQueryArgs& args, float* max, void (*turn)(const TransposeArgs*) noexcept) {
  constexpr std::int64_t kRows = 16;
  for (std::int64_t n = 0; n < args.nr; n += kRows) {
    const std::int64_t left = args.rows_used - n, used = left < 0 ? 0 : left < kRows ? left : kRows;
    const void* rows[kRows];
    for (std::int64_t i = 0; i < kRows; ++i) rows[i] = args.rows[i < used ? n + i : 0];
    TransposeArgs turned{rows, used, args.dim, static_cast<float*>(args.dst) + n, {}, args.scale};
    turned.pitch = args.nr * static_cast<std::int64_t>(sizeof(float));
    if (max) turned.max = max + n;
    turn(&turned);
  }
}

}  // namespace
}  // namespace kumiko::kernels

extern "C" {
void pack_query_f32_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_query_bf16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_query_f16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_key_bf16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_key_f16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void score_tile_f32_sve512_turn(const kumiko::kernels::TransposeArgs*) noexcept;
}
