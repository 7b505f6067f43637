// SPDX-License-Identifier: Apache-2.0
// f32 vectors of 16 lanes. Included only by files compiled for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>

#include "kernels/element.h"
#include "kernels/simd/exp2.h"

namespace kumiko::kernels {
namespace {  // every ISA file gets its own copy: code compiled for one ISA must never be linked into
             // another's path

struct Avx512 {
  using Reg = __m512;
  using Int = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kMr = 8;  ///< height of the panels in gemm/kernels.inc

  static Reg load(const float* p) { return _mm512_loadu_ps(p); }
  static Int load(const std::int32_t* p) { return _mm512_loadu_si512(p); }
  static Reg to_float(Int x) { return _mm512_cvtepi32_ps(x); }
  static void store(float* p, Reg x) { _mm512_storeu_ps(p, x); }
  /// The first n lanes; the others are 0 and their memory is not touched.
  static Reg load_first(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store_first(float* p, std::int64_t n, Reg x) { _mm512_mask_storeu_ps(p, first(n), x); }
  static Reg load(const Bf16* p) {
    return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg load_first(const Bf16* p, std::int64_t n) {
    return widen_bf16(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static void store(Bf16* p, Reg x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(x)); }
  template <class T>
  static void load_two(const T* p, Reg& a, Reg& b) {
    a = load(p), b = load(p + kLanes);
  }
  /// Two vectors side by side: one shuffle takes the upper halves of both. NaNs become canonical.
  static void store_two(Bf16* p, Reg a, Reg b) { _mm512_storeu_si512(p, narrow_two(a, b)); }
  static void store_first(Bf16* p, std::int64_t n, Reg x) {
    _mm256_mask_storeu_epi16(p, first(n), narrow_bf16(x));
  }
  static Reg load(const F16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Reg load_first(const F16* p, std::int64_t n) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(first(n), p));
  }
  static void store(F16* p, Reg x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_f16(x)); }
  /// a, then b, in bf16, rounded to nearest even.
  static Int narrow_two(Reg a, Reg b) {
    if (__builtin_expect(_mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0, 0)) a = canonical(a), b = canonical(b);
    alignas(64) static constexpr std::uint16_t kUpper[] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21,
                                                           23, 25, 27, 29, 31, 33, 35, 37, 39, 41, 43,
                                                           45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    return _mm512_permutex2var_epi16(round_bf16(a), _mm512_load_si512(kUpper), round_bf16(b));
  }
  /// Non-temporal forms of store() and store_two(). Addresses must be aligned to the size of the store. Other
  /// threads see the data after finish_streams() (append.h).
  static void stream(float* p, Reg x) { _mm512_stream_ps(p, x); }
  static void stream(Bf16* p, Reg x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_bf16(x)); }
  static void stream(F16* p, Reg x) { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_f16(x)); }
  static void stream_two(Bf16* p, Reg a, Reg b) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(p), narrow_two(a, b));
  }
  static void store_first(F16* p, std::int64_t n, Reg x) {
    _mm256_mask_storeu_epi16(p, first(n), narrow_f16(x));
  }
  /// The first elements of 16 pairs, and the second elements.
  [[gnu::always_inline]] static void load_pairs(const Bf16* p, Reg& first, Reg& second) {
    const Reg pairs = _mm512_loadu_ps(reinterpret_cast<const float*>(p));
    first = low_halves(pairs), second = high_halves(pairs);
  }
  static void load_pairs(const F16* p, Reg& first, Reg& second) {
    first = load(p), second = load(p + kLanes);
    to_even_odd(first, second);
  }
  /// The lower or the upper elements of 16 pairs of bf16, as f32.
  [[gnu::always_inline]] static Reg low_halves(Reg pairs) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_castps_si512(pairs), 16));
  }
  [[gnu::always_inline]] static Reg high_halves(Reg pairs) {
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_castps_si512(pairs), _mm512_set1_epi32(-65536)));
  }
  /// 32 floats in two vectors: from memory order to those of even and those of odd index, and back.
  [[gnu::always_inline]] static void to_even_odd(Reg& a, Reg& b) {
    const Int even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30),
              odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const Reg first = a;
    a = _mm512_permutex2var_ps(first, even, b);
    b = _mm512_permutex2var_ps(first, odd, b);
  }
  [[gnu::always_inline]] static void from_even_odd(Reg& a, Reg& b) {
    const Int low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23),
              high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    const Reg even = a;
    a = _mm512_permutex2var_ps(even, low, b);
    b = _mm512_permutex2var_ps(even, high, b);
  }
  /// Where kMr is half the lanes: stores the first kMr lanes at `low` and the others at `high`.
  static void store_halves(float* low, float* high, Reg x) {
    _mm256_storeu_ps(low, _mm512_castps512_ps256(x));
    _mm256_storeu_ps(high, _mm512_extractf32x8_ps(x, 1));
  }
  /// kMr elements of row p, then kMr of the next row. A masked broadcast loads and blends; an insertion would
  /// use the shuffle port.
  static Reg load_panel_rows(const float* p, std::int64_t stride) {
    return _mm512_mask_broadcast_f32x8(_mm512_castps256_ps512(_mm256_loadu_ps(p)), 0xff00,
                                       _mm256_loadu_ps(p + stride));
  }
  static Reg load_panel_rows(const Bf16* p, std::int64_t stride) {
    return widen_bf16(two_rows(p, p + stride));
  }
  static Reg load_panel_rows(const F16* p, std::int64_t stride) {
    return _mm512_cvtph_ps(two_rows(p, p + stride));
  }
  static Reg load(const Bool8* p) { return widen_bool(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Reg load_first(const Bool8* p, std::int64_t n) {
    return widen_bool(_mm_maskz_loadu_epi8(first(n), p));
  }
  static Reg set1(float x) { return _mm512_set1_ps(x); }
  static Reg zero() { return _mm512_setzero_ps(); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  /// b where a or b is NaN.
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static float reduce_max(Reg a) { return _mm512_reduce_max_ps(a); }
  /// canonical(x + 0) of element.h in every lane. The addition's mask saves a blend.
  static Reg canonical_plus_zero(Reg x) {
    return _mm512_mask_add_ps(_mm512_castsi512_ps(_mm512_set1_epi32(kCanonicalNan)),
                              _mm512_cmp_ps_mask(x, x, _CMP_ORD_Q), x, zero());
  }
  /// canonical() of element.h in every lane.
  static Reg canonical(Reg x) {
    return _mm512_mask_mov_ps(x, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q),
                              _mm512_castsi512_ps(_mm512_set1_epi32(kCanonicalNan)));
  }
  /// Lanes 2 i and 2 i + 1 exchanged.
  static Reg swap_pairs(Reg x) { return _mm512_permute_ps(x, 0xb1); }
  static bool any_nan(Reg a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q) != 0; }
  /// a, with 0 for -inf.
  static Reg zero_if_minus_infinity(Reg a) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(a, _mm512_set1_ps(-__builtin_inff()), _CMP_NEQ_UQ), a);
  }
  /// x where begin <= j < end, else -inf.
  static Reg keep_visible(Reg x, Int begin, Int end, std::int32_t j) {
    const Int at = _mm512_set1_epi32(j);
    const __mmask16 visible = _mm512_cmple_epi32_mask(begin, at) & _mm512_cmpgt_epi32_mask(end, at);
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), visible, x);
  }
  static Int lane_index() { return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15); }
  /// x where begin <= first + lane < end, else -inf.
  static Reg keep_between(Reg x, std::int32_t begin, std::int32_t end, std::int32_t first) {
    const Int at = _mm512_add_epi32(lane_index(), _mm512_set1_epi32(first));
    const __mmask16 visible = _mm512_cmple_epi32_mask(_mm512_set1_epi32(begin), at) &
                              _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(end), at);
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()), visible, x);
  }

  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg abs(Reg a) { return _mm512_abs_ps(a); }
  static Reg copysign(Reg magnitude, Reg sign) {
    const Int top = _mm512_set1_epi32(INT32_MIN);  // bits: sign's where top is set, else magnitude's
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(top, _mm512_castps_si512(sign), _mm512_castps_si512(magnitude), 0xca));
  }
  /// a < b ? yes : no.
  static Reg select_less(Reg a, Reg b, Reg yes, Reg no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), yes);
  }
  /// x, with -inf where mask is 0.
  static Reg minus_infinity_if_zero(Reg x, Reg mask) {
    return _mm512_mask_mov_ps(_mm512_set1_ps(-__builtin_inff()),
                              _mm512_cmp_ps_mask(mask, _mm512_setzero_ps(), _CMP_NEQ_UQ), x);
  }
  /// |position - j| of each lane.
  static Reg distance(Int position, std::int32_t j) {
    return _mm512_cvtepi32_ps(_mm512_abs_epi32(_mm512_sub_epi32(position, _mm512_set1_epi32(j))));
  }
  /// |position - (j + lane)|.
  static Reg distances(std::int32_t position, std::int32_t j) {
    const Int at = _mm512_add_epi32(lane_index(), _mm512_set1_epi32(j));
    return _mm512_cvtepi32_ps(_mm512_abs_epi32(_mm512_sub_epi32(_mm512_set1_epi32(position), at)));
  }

  /// 2^x for x <= 0 (and NaN): see exp2.h.
  static Reg exp2(Reg x) {
    const __mmask16 kept = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExp2Underflow), _CMP_NLT_UQ);
    const Reg n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Reg f = _mm512_sub_ps(x, n);
    Reg p = _mm512_fmadd_ps(_mm512_set1_ps(kExp2Poly[6]), f, _mm512_set1_ps(kExp2Poly[5]));
    for (int i = 4; i >= 0; --i) p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kExp2Poly[i]));
    return _mm512_maskz_scalef_ps(kept, p, n);
  }

  // No load_transposed() as in AVX2: it would take 64 loads of quarters for 32 shuffles, store_f32 0.101 ns
  // an element against 0.057, pack_f32 query 0.080 against 0.055 (Zen 5).
  /// Within each 128-bit quarter: x_i lane j <-> x_j lane i.
  [[gnu::always_inline]] static void transpose_quarters(Reg& a, Reg& b, Reg& c, Reg& d) {
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)),
                  ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(a, b)),
                  cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d)),
                  cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    a = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
    b = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
    c = _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high));
    d = _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high));
  }
  /// Quarters as elements: x_i quarter j <-> x_j quarter i.
  [[gnu::always_inline]] static void gather_quarters(Reg& a, Reg& b, Reg& c, Reg& d) {
    const Reg ab = _mm512_shuffle_f32x4(a, b, 0x88), ab_odd = _mm512_shuffle_f32x4(a, b, 0xdd),
              cd = _mm512_shuffle_f32x4(c, d, 0x88), cd_odd = _mm512_shuffle_f32x4(c, d, 0xdd);
    a = _mm512_shuffle_f32x4(ab, cd, 0x88);
    b = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0x88);
    c = _mm512_shuffle_f32x4(ab, cd, 0xdd);
    d = _mm512_shuffle_f32x4(ab_odd, cd_odd, 0xdd);
  }
  /// x[i] lane j <-> x[j] lane i.
  [[gnu::always_inline]] static void transpose(Reg (&x)[16]) {
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) transpose_quarters(x[i], x[i + 1], x[i + 2], x[i + 3]);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) gather_quarters(x[i], x[i + 4], x[i + 8], x[i + 12]);
  }
  /// 16 lanes of 8 rows of a panel: x[i] is lane 2i of every row, then lane 2i + 1.
  template <class RowAt>
  requires(std::is_same_v<std::invoke_result_t<RowAt, int>, const float*>)
      [[gnu::always_inline]] static void load_panel(Reg (&x)[8], RowAt row_at) {
    const Int interleave = _mm512_setr_epi32(0, 1, 2, 3, 16, 17, 18, 19, 4, 5, 6, 7, 20, 21, 22, 23);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      Reg a[4];  // quarters: lanes 0-3 of rows i and i + 4, lanes 4-7 of both
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        a[i] =
            _mm512_permutex2var_ps(_mm512_castps256_ps512(_mm256_loadu_ps(row_at(i) + 8 * half)), interleave,
                                   _mm512_castps256_ps512(_mm256_loadu_ps(row_at(i + 4) + 8 * half)));
      }
      transpose_quarters(a[0], a[1], a[2], a[3]);
      x[4 * half] = _mm512_shuffle_f32x4(a[0], a[1], 0x44);
      x[4 * half + 1] = _mm512_shuffle_f32x4(a[2], a[3], 0x44);
      x[4 * half + 2] = _mm512_shuffle_f32x4(a[0], a[1], 0xee);
      x[4 * half + 3] = _mm512_shuffle_f32x4(a[2], a[3], 0xee);
    }
  }
  /// Keeps x in a register: otherwise g++ folds a load into every use.
  [[gnu::always_inline]] static Reg in_register(Reg x) {
    asm("" : "+v"(x));
    return x;
  }

 protected:
  /// 8 elements of 16 bits from each of two rows.
  static __m256i two_rows(const void* low, const void* high) {
    return _mm256_mask_broadcast_i32x4(
        _mm256_castsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(low))), 0xf0,
        _mm_loadu_si128(static_cast<const __m128i*>(high)));
  }

 private:
  static Reg widen_bool(__m128i x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x));
  }
  static Reg widen_bf16(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  // Rounded to nearest even in integers: the conversion instruction flushes subnormals to 0, and needs
  // avx512_bf16.
  /// x has no NaN but the canonical one, which rounding does not change.
  static __m256i narrow_bf16(Reg x) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_bf16(x), 16));
  }
  /// The rounded bf16 is the upper half of each lane.
  static Int round_bf16(Reg x) {
    const Int bits = _mm512_castps_si512(x),
              odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  }
  static __m256i narrow_f16(Reg x) {
    return _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  static __mmask16 first(std::int64_t n) {
    return n >= 16 ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << n) - 1u);
  }
};

}  // namespace
}  // namespace kumiko::kernels
