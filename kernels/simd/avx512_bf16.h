// SPDX-License-Identifier: Apache-2.0
// Avx512 with two bf16 elements per lane for the products (gemm.h: product bf16). Included only by files
// compiled for AVX512_BF16.
#pragma once

#include "kernels/simd/avx512.h"

namespace kumiko::kernels {
namespace {

struct Avx512Bf16 : Avx512 {
  static constexpr int kElementsPerLane = 2;

  /// 32 elements, two per lane. Reg only holds their bits: no instruction here treats them as f32.
  static Reg load(const Bf16* p) { return _mm512_castsi512_ps(_mm512_loadu_si512(p)); }
  static Reg load_first(const Bf16* p, std::int64_t elements) {
    const __mmask32 first = elements >= 32 ? ~__mmask32{0} : (__mmask32{1} << elements) - 1;
    return _mm512_castsi512_ps(_mm512_maskz_loadu_epi16(first, p));
  }
  using Avx512::load;
  using Avx512::load_first;

  /// Steps of kMr dims: rows p and p + stride interleaved, then the next two.
  static Reg load_panel_rows(const Bf16* p, std::int64_t stride) {
    const Int even = _mm512_cvtepu16_epi32(two_rows(p, p + 2 * stride)),
              odd = _mm512_cvtepu16_epi32(two_rows(p + stride, p + 3 * stride));
    return _mm512_castsi512_ps(_mm512_or_si512(even, _mm512_slli_epi32(odd, 16)));
  }
  /// The first n elements of both rows interleaved; `odd` may be nullptr, for zeros.
  static Reg interleave_first(const Bf16* even, const Bf16* odd, std::int64_t n) {
    const auto widened = [&](const Bf16* row) {
      const __mmask16 first = n >= kLanes ? __mmask16{0xffff} : static_cast<__mmask16>((1u << n) - 1u);
      return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first, row));
    };
    Int x = widened(even);
    if (odd) x = _mm512_or_si512(x, _mm512_slli_epi32(widened(odd), 16));
    return _mm512_castsi512_ps(x);
  }

  /// Each pair with 0 for its second element.
  static Reg first_of_pairs(Reg x) {
    return _mm512_castsi512_ps(_mm512_and_si512(bits(x), _mm512_set1_epi32(0xffff)));
  }

  static Int bits(Reg x) { return _mm512_castps_si512(x); }
  /// c plus the products of both elements of a and b, in the order of gemm.h.
  static Reg product(Reg a, Reg b, Reg c) {
    return _mm512_dpbf16_ps(c, (__m512bh)bits(a), (__m512bh)bits(b));
  }
  static Reg pair_of_ones() { return _mm512_castsi512_ps(_mm512_set1_epi32(0x3f803f80)); }
  /// A pair in each lane, low and high rounded to nearest even.
  static Reg pair(Reg low, Reg high) { return interleave(round_both(low, high)); }
  /// All of low, then all of high, rounded to nearest even.
  static Int round_both(Reg low, Reg high) { return (Int)_mm512_cvtne2ps_pbh(high, low); }
  /// Makes pairs of what round_both() gives.
  static Reg interleave(Int both) {
    const Int order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7,
                                       22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return _mm512_castsi512_ps(_mm512_permutexvar_epi16(order, both));
  }
  /// Stores low (half 0) or high (half 1) of what round_both() gives.
  static void store_half(std::uint16_t* p, Int both, int half) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        half == 0 ? _mm512_castsi512_si256(both) : _mm512_extracti64x4_epi64(both, 1));
  }
  /// Rounded to nearest even, lanes in order.
  static void store_bf16(std::uint16_t* p, Reg x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), (__m256i)_mm512_cvtneps_pbh(x));
  }
  static __mmask32 not_finite(Reg pairs) {
    const Int exponent = _mm512_set1_epi16(0x7f80);
    return _mm512_cmpeq_epi16_mask(_mm512_and_si512(bits(pairs), exponent), exponent);
  }
  /// Every element times 1, -1 or 0.
  static Reg times_sign(Reg pairs, float sign) {
    if (sign == 0.0f)
      return _mm512_castsi512_ps(_mm512_maskz_mov_epi16(not_finite(pairs), _mm512_set1_epi16(0x7fc0)));
    return _mm512_castsi512_ps(_mm512_xor_si512(bits(pairs), _mm512_set1_epi16(sign < 0 ? INT16_MIN : 0)));
  }

  /// 2^x for x <= 0 (and NaN), as exact as bf16 needs: relative error 1.1e-4, 2^0 exactly 1 (Remez exchange
  /// as in exp2.h, degree 3). The rounding that follows errs by up to 3.9e-3.
  static Reg exp2_short(Reg x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExp2Underflow), _CMP_NLT_UQ);
    const Reg n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Reg f = _mm512_sub_ps(x, n);
    Reg p = _mm512_fmadd_ps(_mm512_set1_ps(0x1.c2a218p-5f), f, _mm512_set1_ps(0x1.f00c4ep-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0x1.62f5fap-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(kept, p, n);
  }
};

}  // namespace
}  // namespace kumiko::kernels
