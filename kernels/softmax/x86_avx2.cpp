// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/avx2.h"
#include "kernels/softmax/vector.h"

namespace kumiko::kernels {

void softmax_f32_avx2_mask_scores(const MaskArgs& args) noexcept {
  mask_scores_any<Avx2>(args);
}
void softmax_f32_avx2_probabilities(const SoftmaxArgs& args) noexcept {
  probabilities_any<Avx2>(args);
}
void softmax_f32_avx2_weights(const SoftmaxArgs& args) noexcept {
  weights_as_they_are(args);
}
void softmax_f32_avx2_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<Avx2>(x, y, n);
}

}  // namespace kumiko::kernels
