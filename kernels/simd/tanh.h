// SPDX-License-Identifier: Apache-2.0
// tanh in f32, the same steps on every ISA.
//
// |x| < 0.625: x + x * z * P(z), z = x^2, P of degree 4: minimax of the relative error (Remez exchange, own
// computation, 4.4e-9). Beyond: (1 - e) / (1 + e) with e = 2^(-2 log2(e) |x|), with the sign of x. NaN gives
// NaN, -0 gives +0. Bound: 1.9 ULP; worst seen in tests/kernels 1.83 (every 13th float of [2^-14, 16]). With
// the exp2 of sve512 2.08 ULP, at 0x1.51835p-1 (every float).
#pragma once

namespace kumiko::kernels {

inline constexpr float kTanhLimit = 0.625f;
inline constexpr float kTanhExponent = -0x1.715476p+1f;  // -2 log2(e)
inline constexpr float kTanhPoly[5] = {-0x1.555532p-2f, 0x1.110726p-3f, -0x1.b83c5ap-5f, 0x1.52269cp-6f,
                                       -0x1.75e1ccp-8f};

namespace {  // as in the vector types' headers: one copy per ISA file

template <class V>
typename V::Reg tanh(typename V::Reg x) {
  const auto y = V::abs(x), z = V::mul(x, x);
  auto p = V::set1(kTanhPoly[4]);
  for (int i = 3; i >= 0; --i) p = V::fma(p, z, V::set1(kTanhPoly[i]));
  const auto small = V::fma(V::mul(x, z), p, x);
  const auto e = V::exp2(V::mul(y, V::set1(kTanhExponent))), one = V::set1(1.0f);
  const auto large = V::copysign(V::div(V::sub(one, e), V::add(one, e)), x);
  return V::select_less(y, V::set1(kTanhLimit), small, large);
}

}  // namespace
}  // namespace kumiko::kernels
