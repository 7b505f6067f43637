// SPDX-License-Identifier: Apache-2.0
// gradient.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/gradient/gradient.h"

namespace kumiko::kernels {
namespace {

template <class V, bool kCapped>
void gradient_of_scores(const GradientArgs& args) {
  // Only -inf is less than this; a NaN is not.
  const auto least = V::set1(-__FLT_MAX__), zero = V::zero(), one = V::set1(1.0f);
  const auto cap = V::set1(args.inverse_cap), minus_cap = V::set1(-args.inverse_cap);
  for (std::int64_t i = 0; i < args.rows; ++i) {
    const auto lse = V::zero_if_minus_infinity(V::set1(args.lse[i])), delta = V::set1(args.delta[i]);
    float *s = args.s + i * args.nr, *dp = args.dp + i * args.nr;
    for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
      auto x = V::load(s + n);
      if (args.begin) x = V::keep_between(x, args.begin[i], args.end[i], static_cast<std::int32_t>(n));
      const auto p = V::exp2(V::sub(x, lse));
      auto ds = V::mul(p, V::sub(V::load(dp + n), delta));
      if constexpr (kCapped) {
        const auto capped = V::load(args.capped + i * args.nr + n);
        ds = V::mul(ds, V::fma(V::mul(capped, minus_cap), V::mul(capped, cap), one));
      }
      V::store(s + n, V::select_less(x, least, zero, p));
      V::store(dp + n, V::select_less(x, least, zero, ds));
    }
  }
}

#define KUMIKO_GRADIENT_KERNELS(name, V)                       \
  void name##_scores(const GradientArgs& args) noexcept {      \
    if (args.capped) return gradient_of_scores<V, true>(args); \
    gradient_of_scores<V, false>(args);                        \
  }

}  // namespace
}  // namespace kumiko::kernels
