// SPDX-License-Identifier: Apache-2.0
// Advanced SIMD with SDOT.
#include "kernels/int8_scores/neon.h"

namespace kumiko::kernels {
namespace {

struct Bytes : ScalarBytes {
  using V = Neon;
  static float32x4_t load(const std::int8_t* row) { return vreinterpretq_f32_s8(vld1q_s8(row)); }
};

struct Dot {
  template <int kVectors>
  [[gnu::always_inline]] static void add(int32x4_t (&sums)[8][kVectors], const std::int8_t* a,
                                         const std::int8_t* b) {
    const int8x16_t rows[2] = {vld1q_s8(a), vld1q_s8(a + 16)};
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      const int8x16_t queries = vld1q_s8(b + 16 * j);
      for_8_rows([&]<int m>(std::integral_constant<int, m>) __attribute__((always_inline)) {
        sums[m][j] = vdotq_laneq_s32(sums[m][j], queries, rows[m / 4], m % 4);
      });
    }
  }
};

}  // namespace

KUMIKO_INT8_PANELS(int8_scores_neon_dot, Bytes, Bytes, 8, false)
KUMIKO_INT8_NEON_TILES(int8_scores_neon_dot, Dot)

}  // namespace kumiko::kernels
