// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/sve512.h"
#include "kernels/softmax/vector.h"

extern "C" void softmax_f32_3_sve512_exponentiate(float* s, std::int64_t keys, const float* shift,
                                                  float* sum) noexcept;

namespace kumiko::kernels {
namespace {

/// Tiles of three vectors, as most tiles of a call are: the loop of arm_sve512_tile.S.
void probabilities_of_three(const SoftmaxArgs& args) {
  Sve512::Reg shift[3], sum[3];
  raise_maxima<Sve512, 3>(args, shift, sum);
  alignas(64) float shifts[3 * Sve512::kLanes];
  for (int v = 0; v < 3; ++v) {
    Sve512::store(shifts + v * Sve512::kLanes, shift[v]);
    Sve512::store(args.l + v * Sve512::kLanes, sum[v]);
  }
  softmax_f32_3_sve512_exponentiate(args.s, args.kv, shifts, args.l);
}

}  // namespace

void softmax_f32_sve512_mask_scores(const MaskArgs& args) noexcept {
  mask_scores_any<Sve512>(args);
}
void softmax_f32_sve512_probabilities(const SoftmaxArgs& args) noexcept {
  if (args.nr == 3 * Sve512::kLanes) return probabilities_of_three(args);
  probabilities_any<Sve512>(args);
}
void softmax_f32_sve512_weights(const SoftmaxArgs& args) noexcept {
  weights_as_they_are(args);
}
void softmax_f32_sve512_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<Sve512>(x, y, n);
}

}  // namespace kumiko::kernels
