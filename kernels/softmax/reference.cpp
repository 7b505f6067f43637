// SPDX-License-Identifier: Apache-2.0
// The spec of softmax.h in plain C++.
#include "kernels/simd/scalar.h"
#include "kernels/simd/scalar_fma.h"
#include "kernels/softmax/softmax.h"

namespace kumiko::kernels {

void softmax_f32_reference_mask_scores(const MaskArgs& args) noexcept {
  for (std::int64_t j = 0; j < args.kv; ++j) {
    const std::int64_t at = args.first + j;
    for (std::int64_t n = 0; n < args.nr; ++n) {
      float& s = args.s[j * args.nr + n];
      if (at < args.begin[n] || at >= args.end[n]) s = kMinusInfinity;
      if (s > args.block_max[n]) args.block_max[n] = s;
    }
  }
}

void softmax_f32_reference_probabilities(const SoftmaxArgs& args) noexcept {
  with_fma([&]() __attribute__((always_inline)) {
    for (std::int64_t n = 0; n < args.nr; ++n) {
      const float m = args.block_max[n] > args.m[n] ? args.block_max[n] : args.m[n];
      const float shift = m == kMinusInfinity ? 0.0f : m;
      args.alpha[n] = exp2_scalar(args.m[n] - shift);
      args.m[n] = m;
      args.l[n] *= args.alpha[n];
      for (std::int64_t j = 0; j < args.kv; ++j) {
        float& s = args.s[j * args.nr + n];
        s = exp2_scalar(s - shift);
        args.l[n] += s;
      }
    }
  });
}

void softmax_f32_reference_weights(const SoftmaxArgs& args) noexcept {
  for (std::int64_t n = 0; n < args.nr; ++n) args.alpha[n] = 1.0f;
}

void softmax_f32_reference_exp2(const float* x, float* y, std::int64_t n) noexcept {
  with_fma([&]() __attribute__((always_inline)) {
    for (std::int64_t i = 0; i < n; ++i) y[i] = exp2_scalar(x[i]);
  });
}

}  // namespace kumiko::kernels
