// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/sve512.h"
#include "kernels/softmax/vector.h"

namespace kumiko::kernels {

void softmax_f32_sve512_mask_scores(const MaskArgs& args) noexcept {
  mask_scores_any<Sve512>(args);
}
void softmax_f32_sve512_probabilities(const SoftmaxArgs& args) noexcept {
  probabilities_any<Sve512>(args);
}
void softmax_f32_sve512_weights(const SoftmaxArgs& args) noexcept {
  weights_as_they_are(args);
}
void softmax_f32_sve512_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<Sve512>(x, y, n);
}

}  // namespace kumiko::kernels
