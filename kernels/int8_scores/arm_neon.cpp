// SPDX-License-Identifier: Apache-2.0
// Advanced SIMD without dot products: SMLAL of int16, which has as many products an instruction as an f32
// multiply-add.
#include "kernels/int8_scores/neon.h"

namespace kumiko::kernels {
namespace {

struct Pairs : ScalarPairs {
  using V = Neon;
  static float32x4_t load(const std::int8_t* row) { return vreinterpretq_f32_s16(vmovl_s8(vld1_s8(row))); }
};

struct MultiplyPairs {
  template <int kVectors>
  [[gnu::always_inline]] static void add(int32x4_t (&sums)[8][kVectors], const std::int8_t* a,
                                         const std::int8_t* b) {
    const int16x8_t rows[2] = {vreinterpretq_s16_s8(vld1q_s8(a)), vreinterpretq_s16_s8(vld1q_s8(a + 16))};
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) {
      const int16x8_t pairs = vreinterpretq_s16_s8(vld1q_s8(b + 16 * j));
      const int16x4_t first = vmovn_s32(vreinterpretq_s32_s16(pairs)),
                      second = vshrn_n_s32(vreinterpretq_s32_s16(pairs), 16);
      for_8_rows([&]<int m>(std::integral_constant<int, m>) __attribute__((always_inline)) {
        sums[m][j] = vmlal_laneq_s16(sums[m][j], first, rows[m / 4], m % 4 * 2);
        sums[m][j] = vmlal_laneq_s16(sums[m][j], second, rows[m / 4], m % 4 * 2 + 1);
      });
    }
  }
};

}  // namespace

KUMIKO_INT8_PANELS(int8_scores_neon, Pairs, Pairs, 8, false)
KUMIKO_INT8_NEON_TILES(int8_scores_neon, MultiplyPairs)

}  // namespace kumiko::kernels
