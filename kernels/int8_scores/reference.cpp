// SPDX-License-Identifier: Apache-2.0
// The spec of int8_scores.h in plain C++.
#include "kernels/int8_scores/pack.h"

namespace kumiko::kernels {

KUMIKO_INT8_PANELS(int8_scores_reference, ScalarBytes, ScalarBytes, 4, false)

extern "C" void int8_scores_reference_tile_1(const GemmArgs* args) noexcept {
  constexpr int kMr = 4, kNr = 8, kPerStep = 4;
  for (std::int64_t panel = 0; panel < args->m_panels; ++panel) {
    const auto* a = static_cast<const std::int8_t*>(args->a) + panel * args->a_panel_stride;
    const auto* b = static_cast<const std::int8_t*>(args->b);
    for (int m = 0; m < kMr; ++m) {
      for (int n = 0; n < kNr; ++n) {
        std::int32_t sum = 0;
        for (std::int64_t k = 0; k < args->k; ++k) {
          for (int i = 0; i < kPerStep; ++i)
            sum += a[(k * kMr + m) * kPerStep + i] * b[(k * kNr + n) * kPerStep + i];
        }
        const float score = static_cast<float>(sum) * (args->c_scale[n] * args->row_scale[panel * kMr + m]);
        args->c[(panel * kMr + m) * kNr + n] = score;
        if (args->c_max && score > args->c_max[n]) args->c_max[n] = score;
      }
    }
  }
}

}  // namespace kumiko::kernels
