// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/neon.h"
#include "kernels/softmax/vector.h"

namespace kumiko::kernels {

void softmax_f32_neon_mask_scores(const MaskArgs& args) noexcept {
  mask_scores_any<Neon>(args);
}
void softmax_f32_neon_probabilities(const SoftmaxArgs& args) noexcept {
  probabilities_any<Neon>(args);
}
void softmax_f32_neon_weights(const SoftmaxArgs& args) noexcept {
  weights_as_they_are(args);
}
void softmax_f32_neon_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<Neon>(x, y, n);
}

}  // namespace kumiko::kernels
