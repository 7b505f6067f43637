// SPDX-License-Identifier: Apache-2.0
// Included before everything else in the C++ kernels of avx512_bf16, which are then compiled without that
// instruction set: its three intrinsics as AVX-512 F and BW compute them, bit for bit (Intel SDM, volume 2:
// VDPBF16PS, VCVTNEPS2BF16, VCVTNE2PS2BF16). Another one used there would not compile.
#pragma once

#include <immintrin.h>

namespace kumiko::test {

/// sum + a b, the second elements' product before the first's, one rounding each; whatever MXCSR says, to
/// nearest even, subnormal operands and results as 0. One block: no compiler moves arithmetic over the change
/// of MXCSR.
inline __m512 dpbf16(__m512 sum, __m512bh a, __m512bh b) {
  const auto first = [](__m512bh x) { return _mm512_slli_epi32((__m512i)x, 16); };
  const auto second = [](__m512bh x) { return _mm512_and_si512((__m512i)x, _mm512_set1_epi32(-65536)); };
  const unsigned own = 0x9fc0;
  unsigned callers;
  asm("stmxcsr %1\n\tldmxcsr %2\n\tvfmadd231ps %4, %3, %0\n\tvfmadd231ps %6, %5, %0\n\tldmxcsr %1"
      : "+v"(sum), "=m"(callers)
      : "m"(own), "v"(second(a)), "v"(second(b)), "v"(first(a)), "v"(first(b)));
  return sum;
}

/// To nearest even, in the low half of each lane. A subnormal becomes 0 of its sign, a NaN stays one and is
/// quiet.
inline __m512i bf16_of(__m512 x) {
  const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i carried = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 subnormal = _mm512_testn_epi32_mask(bits, _mm512_set1_epi32(0x7f800000));
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  __m512i result = _mm512_srli_epi32(carried, 16);
  result = _mm512_mask_and_epi32(result, subnormal, high, _mm512_set1_epi32(0x8000));
  return _mm512_mask_or_epi32(result, nan, high, _mm512_set1_epi32(0x40));
}

inline __m256bh cvtneps_pbh(__m512 x) {
  return (__m256bh)_mm512_cvtepi32_epi16(bf16_of(x));
}

/// high's 16 above low's.
inline __m512bh cvtne2ps_pbh(__m512 high, __m512 low) {
  const __m512i below = _mm512_castsi256_si512(_mm512_cvtepi32_epi16(bf16_of(low)));
  return (__m512bh)_mm512_inserti64x4(below, _mm512_cvtepi32_epi16(bf16_of(high)), 1);
}

}  // namespace kumiko::test

#define _mm512_dpbf16_ps kumiko::test::dpbf16
#define _mm512_cvtneps_pbh kumiko::test::cvtneps_pbh
#define _mm512_cvtne2ps_pbh kumiko::test::cvtne2ps_pbh
