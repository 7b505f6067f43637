// SPDX-License-Identifier: Apache-2.0
// gemm.h's product f16 from a tile of panels.h. What belongs to the whole tile, the factors and the maxima,
// are passes over C right after the tile, in L1. A kernel in assembly has them in its tile
// (arm_sve512_half.S).
#pragma once

#include "kernels/gemm/gemm.h"
#include "kernels/gemm/panels.h"

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

template <int MR, int NR>
void scale_half_tile(float* __restrict c, const float* __restrict c_scale,
                     const float* __restrict row_scale) {
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) {
      const float x = c[m * NR + n] * c_scale[n];
      c[m * NR + n] = row_scale ? x * row_scale[m] : x;
    }
  }
}

template <int MR, int NR>
void raise_half_maxima(const float* __restrict c, float* __restrict c_max) {
  for (int m = 0; m < MR; ++m) {
    for (int n = 0; n < NR; ++n) c_max[n] = c[m * NR + n] > c_max[n] ? c[m * NR + n] : c_max[n];
  }
}

/// `before` and `after` take the panel's number and C.
template <int MR, int NR, class Before, class After>
void for_each_half_tile(const GemmArgs& args, PanelFunction tile, Before before, After after) {
  for (std::int64_t panel = 0; panel < args.m_panels; ++panel) {
    float* const c = args.c + panel * MR * NR;
    before(c);
    const PanelArgs operands{static_cast<const char*>(args.a) + panel * args.a_panel_stride,
                             args.b,
                             c,
                             NR * static_cast<std::int64_t>(sizeof(float)),
                             args.k,
                             MR,
                             NR,
                             kHalfChain};
    tile(&operands);
    after(panel, c);
  }
}

template <int MR, int NR>
void half_init(const GemmArgs& args, PanelFunction tile) {
  for_each_half_tile<MR, NR>(
      args, tile, [](float*) {},
      [&](std::int64_t panel, float* c) {
        const float* const rows = args.row_scale ? args.row_scale + panel * MR : nullptr;
        if (args.c_scale) scale_half_tile<MR, NR>(c, args.c_scale, rows);
        if (args.c_max) raise_half_maxima<MR, NR>(c, args.c_max);
      });
}

template <int MR, int NR>
void half_accumulate(const GemmArgs& args, PanelFunction tile) {
  for_each_half_tile<MR, NR>(
      args, tile, [&](float* c) { scale_half_tile<MR, NR>(c, args.c_scale, nullptr); },
      [](std::int64_t, float*) {});
}

}  // namespace
}  // namespace kumiko::kernels

/// The functions of a row of kernels.inc by a row of panels.inc.
#define KUMIKO_HALF_GEMM(name, panel, mr, nr)                              \
  extern "C" {                                                             \
  void panel##_init(const kumiko::kernels::PanelArgs*) noexcept;           \
  void panel##_accumulate(const kumiko::kernels::PanelArgs*) noexcept;     \
  void name##_init(const kumiko::kernels::GemmArgs* args) noexcept {       \
    kumiko::kernels::GemmArgs without = *args;                             \
    without.c_max = nullptr;                                               \
    kumiko::kernels::half_init<mr, nr>(without, panel##_init);             \
  }                                                                        \
  void name##_init_max(const kumiko::kernels::GemmArgs* args) noexcept {   \
    kumiko::kernels::half_init<mr, nr>(*args, panel##_init);               \
  }                                                                        \
  void name##_accumulate(const kumiko::kernels::GemmArgs* args) noexcept { \
    kumiko::kernels::half_accumulate<mr, nr>(*args, panel##_accumulate);   \
  }                                                                        \
  }
