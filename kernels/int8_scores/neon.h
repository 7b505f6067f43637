// SPDX-License-Identifier: Apache-2.0
// int8 tiles of 8 rows for Advanced SIMD, with and without its dot products.
#pragma once

#include <arm_neon.h>

#include <utility>

#include "kernels/int8_scores/pack.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {
namespace {

/// A tile of 8 rows; Step::add(sums, a, b) adds the products of a step to sums[m][j].
template <class Step, int kVectors>
void int8_tile(const GemmArgs& args) {
  constexpr int kMr = 8, kNr = 4 * kVectors;
  const float *query = args.c_scale, *key = args.row_scale;
  float* c = args.c;
  for (std::int64_t panel = 0; panel < args.m_panels; ++panel, key += kMr, c += kMr * kNr) {
    const auto* a = static_cast<const std::int8_t*>(args.a) + panel * args.a_panel_stride;
    const auto* b = static_cast<const std::int8_t*>(args.b);
    int32x4_t sums[kMr][kVectors];
#pragma GCC unroll 8
    for (int m = 0; m < kMr; ++m) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) sums[m][j] = vdupq_n_s32(0);
    }
    for (std::int64_t k = 0; k < args.k; ++k, a += kMr * 4, b += kNr * 4) Step::add(sums, a, b);
    float32x4_t most[kVectors];
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) most[j] = args.c_max ? vld1q_f32(args.c_max + 4 * j) : vdupq_n_f32(0);
#pragma GCC unroll 8
    for (int m = 0; m < kMr; ++m) {
#pragma GCC unroll 3
      for (int j = 0; j < kVectors; ++j) {
        const float32x4_t factor = vmulq_n_f32(vld1q_f32(query + 4 * j), key[m]),
                          score = vmulq_f32(vcvtq_f32_s32(sums[m][j]), factor);
        vst1q_f32(c + m * kNr + 4 * j, score);
        most[j] = vbslq_f32(vcgtq_f32(score, most[j]), score, most[j]);  // of two zeros the old one
      }
    }
    if (!args.c_max) continue;
#pragma GCC unroll 3
    for (int j = 0; j < kVectors; ++j) vst1q_f32(args.c_max + 4 * j, most[j]);
  }
}

/// add_row(m) for each of 8 rows of A. m is a constant: instructions have their lane as an immediate.
template <class AddRow>
[[gnu::always_inline]] inline void for_8_rows(AddRow add_row) {
  [&]<int... m>(std::integer_sequence<int, m...>) __attribute__((always_inline)) {
    (add_row(std::integral_constant<int, m>{}), ...);
  }
  (std::make_integer_sequence<int, 8>{});
}

}  // namespace
}  // namespace kumiko::kernels

#define KUMIKO_INT8_NEON_TILES(name, Step)            \
  extern "C" {                                        \
  void name##_tile_1(const GemmArgs* args) noexcept { \
    int8_tile<Step, 1>(*args);                        \
  }                                                   \
  void name##_tile_2(const GemmArgs* args) noexcept { \
    int8_tile<Step, 2>(*args);                        \
  }                                                   \
  void name##_tile_3(const GemmArgs* args) noexcept { \
    int8_tile<Step, 3>(*args);                        \
  }                                                   \
  }
