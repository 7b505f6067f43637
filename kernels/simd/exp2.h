// 2^x in f32, the same polynomial on every ISA.
//
// n = round-to-nearest-even(x), f = x - n (exact, |f| <= 1/2), 2^x = 2^n * (1 + f * q(f)), q of degree 5:
// minimax of the relative error with the value at f = 0 pinned to 1 (Remez exchange, own
// computation, 3.9e-9), so that exp2(0) == 1 exactly: a running maximum that does not move must not change
// what was accumulated. x < -126 gives +0 (no subnormal results: they cost Intel a microcode assist each);
// NaN gives NaN. Bound: 1.01 ULP over [-126, 0], worst seen in tests/kernels (every float of the range).
#pragma once

namespace kumiko::kernels {

inline constexpr float kExp2Underflow = -126.0f;
inline constexpr float kExp2Poly[7] = {1.0f,           0x1.62e432p-1f,  0x1.ebfbe0p-3f, 0x1.c6ae2cp-5f,
                                       0x1.3b29e4p-7f, 0x1.5f88fep-10f, 0x1.446c7ep-13f};

}  // namespace kumiko::kernels
