// SPDX-License-Identifier: Apache-2.0
// The spec of gradient.h in plain C++.
#include <cmath>
#include <limits>

#include "kernels/gradient/gradient.h"
#include "kernels/simd/scalar.h"

namespace kumiko::kernels {

void gradient_f32_reference_scores(const GradientArgs& args) noexcept {
  constexpr float kHidden = -std::numeric_limits<float>::infinity();
  for (std::int64_t i = 0; i < args.rows; ++i) {
    const float lse = args.lse[i] == kHidden ? 0.0f : args.lse[i];
    for (std::int64_t n = 0; n < args.nr; ++n) {
      float &s = args.s[i * args.nr + n], &dp = args.dp[i * args.nr + n];
      const bool outside = args.begin && (n < args.begin[i] || n >= args.end[i]);
      if (outside || s == kHidden) {
        s = dp = 0.0f;
        continue;
      }
      const float p = exp2_scalar(s - lse);
      dp = p * (dp - args.delta[i]);
      if (args.capped) {
        const float t = args.capped[i * args.nr + n] * args.inverse_cap;
        dp *= std::fma(-t, t, 1.0f);
      }
      s = p;
    }
  }
}

}  // namespace kumiko::kernels
