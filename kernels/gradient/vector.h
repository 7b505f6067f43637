// SPDX-License-Identifier: Apache-2.0
// gradient.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/gradient/gradient.h"

namespace kumiko::kernels {
namespace {

/// Lanes of kVectors vectors from n on of row i. The vectors' exponentials are chains of their own, which
/// fill each other's gaps on a core that does not look far ahead.
template <class V, bool kCapped, int kVectors>
[[gnu::always_inline]] inline void gradient_of_lanes(const GradientArgs& args, std::int64_t i, std::int64_t n,
                                                     typename V::Reg lse, typename V::Reg delta) {
  // Below this there is -inf alone; a NaN is not below.
  const auto least = V::set1(-__FLT_MAX__), zero = V::zero();
  float *const s = args.s + i * args.nr + n, *const dp = args.dp + i * args.nr + n;
  typename V::Reg x[kVectors], p[kVectors], ds[kVectors];
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    x[v] = V::load(s + v * V::kLanes);
    if (args.begin)
      x[v] = V::keep_between(x[v], args.begin[i], args.end[i], static_cast<std::int32_t>(n + v * V::kLanes));
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) p[v] = V::exp2(V::sub(x[v], lse));
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    ds[v] = V::mul(p[v], V::sub(V::load(dp + v * V::kLanes), delta));
    if constexpr (kCapped) {
      const auto capped = V::load(args.capped + i * args.nr + n + v * V::kLanes);
      ds[v] = V::mul(ds[v], V::fma(V::mul(capped, V::set1(-args.inverse_cap)),
                                   V::mul(capped, V::set1(args.inverse_cap)), V::set1(1.0f)));
    }
  }
#pragma GCC unroll 16
  for (int v = 0; v < kVectors; ++v) {
    V::store(s + v * V::kLanes, V::select_less(x[v], least, zero, p[v]));
    V::store(dp + v * V::kLanes, V::select_less(x[v], least, zero, ds[v]));
  }
}

/// kVectors at a time, then one at a time.
template <class V, bool kCapped, int kVectors>
void gradient_of_scores(const GradientArgs& args) {
  for (std::int64_t i = 0; i < args.rows; ++i) {
    const auto lse = V::zero_if_minus_infinity(V::set1(args.lse[i])), delta = V::set1(args.delta[i]);
    std::int64_t n = 0;
    for (; n + kVectors * V::kLanes <= args.nr; n += kVectors * V::kLanes)
      gradient_of_lanes<V, kCapped, kVectors>(args, i, n, lse, delta);
    for (; n < args.nr; n += V::kLanes) gradient_of_lanes<V, kCapped, 1>(args, i, n, lse, delta);
  }
}

#define KUMIKO_GRADIENT_KERNELS(name, V, vectors)                       \
  void name##_scores(const GradientArgs& args) noexcept {               \
    if (args.capped) return gradient_of_scores<V, true, vectors>(args); \
    gradient_of_scores<V, false, vectors>(args);                        \
  }

}  // namespace
}  // namespace kumiko::kernels
