// SPDX-License-Identifier: Apache-2.0
// 2^x in f32: one polynomial on every ISA but sve512, which has an instruction for most of it.
//
// n = round-to-nearest-even(x), f = x - n (exact, |f| <= 1/2), 2^x = 2^n * (1 + f * q(f)), q of degree 5:
// minimax of the relative error with the value at f = 0 pinned to 1 (Remez exchange, own computation,
// 3.9e-9), so that exp2(0) == 1 exactly: a running maximum that does not move must not change the
// accumulators. x < -126 gives +0 (no subnormal results: each costs a microcode assist on Intel); NaN gives
// NaN. Bound: 1.01 ULP over [-126, 0], worst seen in tests/kernels (every float of the range).
//
// With FEXPA: n = x rounded to nearest even at 1/64, by adding kFexpaShift: the last place of the sum is
// 1/64, and its low bits hold the exponent's bias. FEXPA makes 2^n, correctly rounded, from these bits. With
// r = x - n (exact, |r| <= 1/128), 2^x = 2^n + 2^n * (r * (c1 + r * c2)). This takes 8 operations a vector
// where the polynomial takes 11. FEXPA uses 14 bits and wraps beyond: x is first raised to -127, where 2^n is
// 0. Between -127 and -126, 2^n or the result is subnormal, and becomes +0 because kernels of this ISA run
// with subnormals flushed (float_state.h). Bound: 1.09 ULP over [-126, 0] (every float; relative error
// 1.19e-7).
#pragma once

namespace kumiko::kernels {

inline constexpr float kExp2Underflow = -126.0f;
inline constexpr float kExp2Poly[7] = {1.0f,           0x1.62e432p-1f,  0x1.ebfbe0p-3f, 0x1.c6ae2cp-5f,
                                       0x1.3b29e4p-7f, 0x1.5f88fep-10f, 0x1.446c7ep-13f};

inline constexpr float kFexpaShift = 0x1.803f8p+17f, kFexpaLowest = -127.0f;
/// ln 2: the first degree alone, for weights that are rounded to f16 (softmax/arm_sve512_half.h). Off by
/// 2^-16.
inline constexpr float kHalfFexpaPoly = 0x1.62e430p-1f;
inline constexpr float kFexpaPoly[2] = {0x1.62e485p-1f, 0x1.ebfbe0p-3f};

}  // namespace kumiko::kernels
