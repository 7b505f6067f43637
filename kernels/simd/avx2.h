// SPDX-License-Identifier: Apache-2.0
// f32 vectors of 8 lanes. Included only by files compiled for AVX2, FMA and F16C. Same members as
// simd/avx512.h.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/element.h"
#include "kernels/simd/exp2.h"

namespace kumiko::kernels {
namespace {

struct Avx2 {
  using Reg = __m256;
  using Int = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kMr = 4;

  static Reg load(const float* p) { return _mm256_loadu_ps(p); }
  static Int load(const std::int32_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
  static Reg to_float(Int x) { return _mm256_cvtepi32_ps(x); }
  static void store(float* p, Reg x) { _mm256_storeu_ps(p, x); }
  static Reg load_first(const float* p, std::int64_t n) { return _mm256_maskload_ps(p, first(n)); }
  static void store_first(float* p, std::int64_t n, Reg x) { _mm256_maskstore_ps(p, first(n), x); }
  static Reg load(const Bf16* p) { return widen_bf16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Reg load_first(const Bf16* p, std::int64_t n) { return widen_bf16(load_first_16(p, n)); }
  /// The elements of even and of odd index among 16: one load and no shuffle, where two calls of load() take
  /// two of each.
  static void load_pairs(const Bf16* p, Reg& first, Reg& second) {
    const Reg pairs = _mm256_loadu_ps(reinterpret_cast<const float*>(p));
    first = low_halves(pairs), second = high_halves(pairs);
  }
  /// The lower or the upper elements of 8 pairs of bf16, as f32.
  static Reg low_halves(Reg pairs) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_castps_si256(pairs), 16));
  }
  static Reg high_halves(Reg pairs) {
    return _mm256_and_ps(pairs, _mm256_castsi256_ps(_mm256_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  /// 16 floats in two vectors: from memory order to those of even and those of odd index, and back.
  static void to_even_odd(Reg& a, Reg& b) {
    const __m256 even = _mm256_shuffle_ps(a, b, 0x88), odd = _mm256_shuffle_ps(a, b, 0xdd);
    a = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(even), 0xd8));
    b = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(odd), 0xd8));
  }
  static void from_even_odd(Reg& a, Reg& b) {
    const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    a = _mm256_permute2f128_ps(low, high, 0x20);
    b = _mm256_permute2f128_ps(low, high, 0x31);
  }
  static void store(Bf16* p, Reg x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_bf16(x)); }
  /// 16 elements in the order that store_two() packs without a shuffle across halves: 0-3 and 8-11, 4-7 and
  /// 12-15. Widening bf16 this way takes one shuffle a vector and no shift.
  static void load_two(const float* p, Reg& a, Reg& b) {
    a = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + 8), 1);
    b = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p + 4)), _mm_loadu_ps(p + 12), 1);
  }
  static void load_two(const Bf16* p, Reg& a, Reg& b) {
    const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
                  zero = _mm256_setzero_si256();
    a = _mm256_castsi256_ps(_mm256_unpacklo_epi16(zero, both));
    b = _mm256_castsi256_ps(_mm256_unpackhi_epi16(zero, both));
  }
  static void load_two(const F16* p, Reg& a, Reg& b) {
    a = _mm256_cvtph_ps(two_rows(p, p + 8));
    b = _mm256_cvtph_ps(two_rows(p + 4, p + 12));
  }
  /// NaNs become canonical.
  static void store_two(Bf16* p, Reg a, Reg b) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow_two(a, b));
  }
  static void store_first(Bf16* p, std::int64_t n, Reg x) { store_first_16(p, n, narrow_bf16(x)); }
  static Reg load(const F16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static Reg load_first(const F16* p, std::int64_t n) { return _mm256_cvtph_ps(load_first_16(p, n)); }
  static void store(F16* p, Reg x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow_f16(x)); }
  /// Non-temporal forms of store() and store_two(). Addresses must be aligned to the size of the store. Other
  /// threads see the data after finish_streams() (append.h).
  static void stream(float* p, Reg x) { _mm256_stream_ps(p, x); }
  static void stream(Bf16* p, Reg x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow_bf16(x)); }
  static void stream(F16* p, Reg x) { _mm_stream_si128(reinterpret_cast<__m128i*>(p), narrow_f16(x)); }
  static void stream_two(Bf16* p, Reg a, Reg b) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(p), narrow_two(a, b));
  }
  static void store_first(F16* p, std::int64_t n, Reg x) { store_first_16(p, n, narrow_f16(x)); }
  /// The first elements of 8 pairs, and the second elements.
  static void load_pairs(const F16* p, Reg& first, Reg& second) {
    first = load(p), second = load(p + kLanes);
    to_even_odd(first, second);
  }
  static void store_halves(float* low, float* high, Reg x) {
    _mm_storeu_ps(low, _mm256_castps256_ps128(x));
    _mm_storeu_ps(high, _mm256_extractf128_ps(x, 1));
  }
  static Reg load_panel_rows(const float* p, std::int64_t stride) {
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(p)), _mm_loadu_ps(p + stride), 1);
  }
  static Reg load_panel_rows(const Bf16* p, std::int64_t stride) {
    return widen_bf16(two_rows(p, p + stride));
  }
  static Reg load_panel_rows(const F16* p, std::int64_t stride) {
    return _mm256_cvtph_ps(two_rows(p, p + stride));
  }
  static Reg load(const Bool8* p) { return widen_bool(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  static Reg load_first(const Bool8* p, std::int64_t n) {
    alignas(16) char bytes[16] = {};
    std::memcpy(bytes, p, static_cast<std::size_t>(n < 8 ? n : 8));
    return widen_bool(_mm_load_si128(reinterpret_cast<const __m128i*>(bytes)));
  }
  static Reg set1(float x) { return _mm256_set1_ps(x); }
  static Reg zero() { return _mm256_setzero_ps(); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static float reduce_max(Reg a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  /// canonical() of element.h in every lane. (Avx512 has canonical_plus_zero(), too.)
  static Reg canonical(Reg x) {
    return _mm256_blendv_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(kCanonicalNan)),
                            _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  }
  static Reg swap_pairs(Reg x) { return _mm256_permute_ps(x, 0xb1); }
  static bool any_nan(Reg a) { return _mm256_movemask_ps(_mm256_cmp_ps(a, a, _CMP_UNORD_Q)) != 0; }
  static Reg zero_if_minus_infinity(Reg a) {
    return _mm256_and_ps(a, _mm256_cmp_ps(a, _mm256_set1_ps(-__builtin_inff()), _CMP_NEQ_UQ));
  }
  static Reg keep_visible(Reg x, Int begin, Int end, std::int32_t j) {
    const Int at = _mm256_set1_epi32(j);
    const Int hidden =
        _mm256_or_si256(_mm256_cmpgt_epi32(begin, at), _mm256_cmpeq_epi32(_mm256_max_epi32(at, end), at));
    return _mm256_blendv_ps(x, _mm256_set1_ps(-__builtin_inff()), _mm256_castsi256_ps(hidden));
  }
  static Int lane_index() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  static Reg keep_between(Reg x, std::int32_t begin, std::int32_t end, std::int32_t first) {
    const Int at = _mm256_add_epi32(lane_index(), _mm256_set1_epi32(first));
    const Int visible = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(begin), at),
                                            _mm256_cmpgt_epi32(_mm256_set1_epi32(end), at));
    return _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), x, _mm256_castsi256_ps(visible));
  }

  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg abs(Reg a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  static Reg copysign(Reg magnitude, Reg sign) {
    return _mm256_or_ps(abs(magnitude), _mm256_and_ps(_mm256_set1_ps(-0.0f), sign));
  }
  static Reg select_less(Reg a, Reg b, Reg yes, Reg no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
  }
  static Reg minus_infinity_if_zero(Reg x, Reg mask) {
    return _mm256_blendv_ps(x, _mm256_set1_ps(-__builtin_inff()),
                            _mm256_cmp_ps(mask, _mm256_setzero_ps(), _CMP_EQ_OQ));
  }
  static Reg distance(Int position, std::int32_t j) {
    return _mm256_cvtepi32_ps(_mm256_abs_epi32(_mm256_sub_epi32(position, _mm256_set1_epi32(j))));
  }
  static Reg distances(std::int32_t position, std::int32_t j) {
    const Int at = _mm256_add_epi32(lane_index(), _mm256_set1_epi32(j));
    return _mm256_cvtepi32_ps(_mm256_abs_epi32(_mm256_sub_epi32(_mm256_set1_epi32(position), at)));
  }

  static Reg exp2(Reg x) {
    const Reg kept = _mm256_cmp_ps(x, _mm256_set1_ps(kExp2Underflow), _CMP_NLT_UQ);
    const Reg n = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const Reg f = _mm256_sub_ps(x, n);
    Reg p = _mm256_fmadd_ps(_mm256_set1_ps(kExp2Poly[6]), f, _mm256_set1_ps(kExp2Poly[5]));
    for (int i = 4; i >= 0; --i) p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kExp2Poly[i]));
    // p is in [0.7, 1.42]: n goes straight into the exponent field. (NaN: cvtps gives 2^31, shifted out, p
    // stays NaN.)
    const Int exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    return _mm256_and_ps(kept, _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent)));
  }

  /// Within each 128-bit half: x_i lane j <-> x_j lane i.
  [[gnu::always_inline]] static void transpose_halves(Reg& a, Reg& b, Reg& c, Reg& d) {
    const __m256d ab = _mm256_castps_pd(_mm256_unpacklo_ps(a, b)),
                  ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(a, b)),
                  cd = _mm256_castps_pd(_mm256_unpacklo_ps(c, d)),
                  cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
    a = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
    b = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
    c = _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high));
    d = _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high));
  }
  /// Keeps x in a register: otherwise g++ folds a load into every use.
  [[gnu::always_inline]] static Reg in_register(Reg x) {
    asm("" : "+x"(x));
    return x;
  }
  /// x[j] lane i = row_at(i)[j]. Here loads of halves replace a third of transpose()'s shuffles: pack_f32 key
  /// 0.115 ns an element against 0.148, query 0.089 against 0.107 (Zen 5).
  template <class RowAt>
  static void load_transposed(Reg (&x)[8], RowAt row_at) {
#pragma GCC unroll 2
    for (int c = 0; c < 8; c += 4) {
      Reg t[4];
#pragma GCC unroll 4
      for (int g = 0; g < 4; ++g) {
        t[g] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(row_at(g) + c)),
                                    _mm_loadu_ps(row_at(g + 4) + c), 1);
      }
      transpose_halves(t[0], t[1], t[2], t[3]);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) x[c + i] = t[i];
    }
  }

  [[gnu::always_inline]] static void transpose(Reg (&x)[8]) {
    Reg t[8];
#pragma GCC unroll 16
    for (int i = 0; i < 8; i += 2) {
      t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
      t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 8; i += 4) {
      x[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
      x[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
      x[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
      x[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 4; ++i) {
      t[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
      t[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) x[i] = t[i];
  }
  /// 8 lanes of 4 rows of a panel: x[i] is lane 2i of every row, then lane 2i + 1.
  template <class RowAt>
  [[gnu::always_inline]] static void load_panel(Reg (&x)[4], RowAt row_at) {
    Reg a[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) a[i] = load(row_at(i));
    transpose_halves(a[0], a[1], a[2], a[3]);
    x[0] = _mm256_permute2f128_ps(a[0], a[1], 0x20);
    x[1] = _mm256_permute2f128_ps(a[2], a[3], 0x20);
    x[2] = _mm256_permute2f128_ps(a[0], a[1], 0x31);
    x[3] = _mm256_permute2f128_ps(a[2], a[3], 0x31);
  }

 private:
  /// 4 elements of 16 bits from each of two rows.
  static __m128i two_rows(const void* low, const void* high) {
    const __m128 first = _mm_castsi128_ps(_mm_loadl_epi64(static_cast<const __m128i*>(low)));
    return _mm_castps_si128(_mm_loadh_pi(first, static_cast<const __m64*>(high)));
  }
  static Reg widen_bool(__m128i x) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x));
  }
  static Reg widen_bf16(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  /// x has no NaN but the canonical one, which rounding does not change.
  static __m128i narrow_bf16(Reg x) {
    const Int result = round_bf16(x);
    return _mm_packus_epi32(_mm256_castsi256_si128(result), _mm256_extracti128_si256(result, 1));
  }
  /// The rounded bf16 is the lower half of each lane.
  static Int round_bf16(Reg x) {
    const Int bits = _mm256_castps_si256(x),
              odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    return _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd), 16);
  }
  static Int narrow_two(Reg a, Reg b) {
    if (__builtin_expect(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0, 0))
      a = canonical(a), b = canonical(b);
    return _mm256_packus_epi32(round_bf16(a), round_bf16(b));
  }
  static __m128i narrow_f16(Reg x) {
    return _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  }
  // AVX2 masks 32-bit elements only.
  static __m128i load_first_16(const void* p, std::int64_t n) {
    if (n >= 8) return _mm_loadu_si128(static_cast<const __m128i*>(p));
    alignas(16) char bytes[16] = {};
    std::memcpy(bytes, p, static_cast<std::size_t>(2 * n));
    return _mm_load_si128(reinterpret_cast<const __m128i*>(bytes));
  }
  static void store_first_16(void* p, std::int64_t n, __m128i x) {
    if (n >= 8) return _mm_storeu_si128(static_cast<__m128i*>(p), x);
    alignas(16) char bytes[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes), x);
    std::memcpy(p, bytes, static_cast<std::size_t>(2 * n));
  }
  static Int first(std::int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n > 8 ? 8 : static_cast<int>(n)), lane_index());
  }
};

}  // namespace
}  // namespace kumiko::kernels
