// SPDX-License-Identifier: Apache-2.0
// The spec of score.h in plain C++.
#include <cmath>
#include <limits>

#include "kernels/score/score.h"
#include "kernels/simd/scalar.h"

namespace kumiko::kernels {
namespace {

float apply(const ScoreTerms& terms, float s, const void* bias, const std::uint8_t* mask, float slope,
            std::int32_t position, std::int64_t j, float scale) {
  s *= scale;
  if (terms.softcap != 0.0f) s = tanh_scalar(s) * terms.softcap;
  if (terms.has_bias) s = std::fma(load_element(terms.bias_element, bias, j * terms.bias_stride), kLog2e, s);
  if (terms.has_alibi) {
    const std::int32_t distance = position - static_cast<std::int32_t>(j);
    s = std::fma(slope, static_cast<float>(distance < 0 ? -distance : distance), s);
  }
  if (terms.has_mask && mask[j * terms.mask_stride] == 0) s = -std::numeric_limits<float>::infinity();
  return s;
}

}  // namespace

void score_f32_reference_tile(const ScoreTileArgs& args) noexcept {
  const ScoreTerms& terms = *args.terms;
  for (std::int64_t j = 0; j < args.kv; ++j) {
    for (std::int64_t n = 0; n < args.nr; ++n) {
      float& s = args.s[j * args.nr + n];
      s = apply(terms, s, terms.has_bias ? args.bias[n] : nullptr, terms.has_mask ? args.mask[n] : nullptr,
                terms.has_alibi ? args.slope[n] : 0.0f, terms.has_alibi ? args.position[n] : 0, j,
                args.scale);
    }
  }
}

void score_f32_reference_row(const ScoreRowArgs& args) noexcept {
  for (std::int64_t j = 0; j < args.kv; ++j)
    args.s[j] = apply(*args.terms, args.s[j], args.bias, args.mask, args.slope, args.position, j, args.scale);
}

void score_f32_reference_tanh(const float* x, float* y, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = tanh_scalar(x[i]);
}

}  // namespace kumiko::kernels
