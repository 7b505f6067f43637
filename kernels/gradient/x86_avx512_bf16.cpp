// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/gradient.h"
#include "kernels/simd/avx512_bf16.h"

namespace kumiko::kernels {
namespace {

using V = Avx512Bf16;

struct Gradients {
  V::Reg p, ds;
};

V::Reg minus_lse_of(const GradientArgs& args, std::int64_t row) {
  return V::sub(V::zero(), V::zero_if_minus_infinity(V::set1(args.lse[row])));
}

template <bool kCapped>
void gradient_pairs(const GradientArgs& args) {
  // A score less than this is -inf once it is scaled; a NaN is not less.
  const auto least = V::set1(-__FLT_MAX__ / (args.scale > 1.0f ? args.scale : 1.0f)), zero = V::zero(),
             one = V::set1(1.0f), scale = V::set1(args.scale);
  const auto cap = V::set1(args.inverse_cap), minus_cap = V::set1(-args.inverse_cap);
  for (std::int64_t i = 0; i < args.rows; i += 2) {
    const bool has_second = i + 1 < args.rows;
    const V::Reg minus_lse[2] = {minus_lse_of(args, i), has_second ? minus_lse_of(args, i + 1) : zero};
    const V::Reg delta[2] = {V::set1(args.delta[i]), has_second ? V::set1(args.delta[i + 1]) : zero};
    for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
      const auto element = [&](int r) __attribute__((always_inline)) {
        const std::int64_t at = (i + r) * args.nr + n;
        auto x = V::load(args.s + at);
        if (args.begin)
          x = V::keep_between(x, args.begin[i + r], args.end[i + r], static_cast<std::int32_t>(n));
        const auto p = V::exp2_short(V::fma(x, scale, minus_lse[r]));
        auto ds = V::mul(p, V::sub(V::load(args.dp + at), delta[r]));
        if constexpr (kCapped) {
          const auto capped = V::load(args.capped + at);
          ds = V::mul(ds, V::fma(V::mul(capped, minus_cap), V::mul(capped, cap), one));
        }
        return Gradients{V::select_less(x, least, zero, p), V::select_less(x, least, zero, ds)};
      };
      const Gradients first = element(0), second = has_second ? element(1) : Gradients{zero, zero};
      // Overwrites rows that have been read: pair i / 2 is in row i / 2.
      V::store(args.s + i / 2 * args.nr + n, V::pair(first.p, second.p));
      const V::Int ds = V::round_both(first.ds, second.ds);
      V::store(args.dp + i / 2 * args.nr + n, V::interleave(ds));
      V::store_half(args.ds_rows + i * args.nr + n, ds, 0);
      if (has_second) V::store_half(args.ds_rows + (i + 1) * args.nr + n, ds, 1);
    }
  }
}

}  // namespace

void gradient_bf16_avx512_bf16_scores(const GradientArgs& args) noexcept {
  if (args.capped) return gradient_pairs<true>(args);
  gradient_pairs<false>(args);
}

}  // namespace kumiko::kernels
