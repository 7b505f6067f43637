// SPDX-License-Identifier: Apache-2.0
// 16 rows to columns: the arguments of arm_sve512_transpose.S, which knows their offsets.
#pragma once

#include <cstddef>
#include <cstdint>

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

}  // namespace kumiko::kernels

extern "C" {
void pack_query_f32_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_query_bf16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_query_f16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_key_bf16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void pack_key_f16_sve512(const kumiko::kernels::TransposeArgs*) noexcept;
void score_tile_f32_sve512_turn(const kumiko::kernels::TransposeArgs*) noexcept;
}
