// SPDX-License-Identifier: Apache-2.0
// The spec of gemm.h in plain C++.
#include <cmath>

#include "kernels/gemm/gemm.h"
#include "kernels/simd/scalar_fma.h"

namespace kumiko::kernels {
namespace {

enum class Mode { init, init_max, accumulate };

template <int MR, int NR, Mode mode, bool is_transposed = false>
void gemm(const GemmArgs& args) {
  with_fma([&]() __attribute__((always_inline)) {
    for (std::int64_t panel = 0; panel < args.m_panels; ++panel) {
      const std::int64_t stride = args.a_panel_stride / static_cast<std::int64_t>(sizeof(float));
      const float* a = static_cast<const float*>(args.a) + panel * (is_transposed ? MR * MR : stride);
      const float* b = static_cast<const float*>(args.b);
      float* c = args.c + panel * MR * NR;
      for (int m = 0; m < MR; ++m) {
        for (int n = 0; n < NR; ++n) {
          float& out = c[m * NR + n];
          float sum = mode == Mode::accumulate ? out * args.c_scale[n] : 0.0f;
          for (std::int64_t k = 0; k < args.k; ++k) {
            const float x = is_transposed ? a[k / MR * stride + m * MR + k % MR] : a[k * MR + m];
            sum = std::fma(x, b[k * NR + n], sum);
          }
          out = sum;
          if (mode == Mode::init_max && sum > args.c_max[n]) args.c_max[n] = sum;
        }
      }
    }
  });
}

}  // namespace

extern "C" {
void gemm_f32_4x8_reference_init(const GemmArgs* args) noexcept {
  gemm<4, 8, Mode::init>(*args);
}
void gemm_f32_4x8_reference_init_max(const GemmArgs* args) noexcept {
  gemm<4, 8, Mode::init_max>(*args);
}
void gemm_f32_4x8_reference_accumulate(const GemmArgs* args) noexcept {
  gemm<4, 8, Mode::accumulate>(*args);
}
void gemm_f32_4x8_reference_init_transposed(const GemmArgs* args) noexcept {
  gemm<4, 8, Mode::init, true>(*args);
}
void gemm_f32_4x8_reference_accumulate_transposed(const GemmArgs* args) noexcept {
  gemm<4, 8, Mode::accumulate, true>(*args);
}
}

}  // namespace kumiko::kernels
