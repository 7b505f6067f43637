// SPDX-License-Identifier: Apache-2.0
// f32 vectors of 16 lanes in SVE registers of 512 bits. Included only by files compiled for that length
// (-msve-vector-bits=512). Same members as simd/avx512.h. Assumes the state of float_state.h: subnormals are
// flushed.
#pragma once

#include <arm_sve.h>

#include <cstdint>

#include "kernels/element.h"
#include "kernels/simd/exp2.h"

namespace kumiko::kernels {
namespace {

struct Sve512 {
  using Reg = svfloat32_t __attribute__((arm_sve_vector_bits(512)));
  using Int = svint32_t __attribute__((arm_sve_vector_bits(512)));
  static constexpr int kLanes = 16;
  static constexpr int kMr = 8;

  static Reg load(const float* p) { return svld1_f32(all(), p); }
  static Int load(const std::int32_t* p) { return svld1_s32(all(), p); }
  static void store(float* p, Reg x) { svst1_f32(all(), p, x); }
  static Reg load_first(const float* p, std::int64_t n) { return svld1_f32(first(n), p); }
  static void store_first(float* p, std::int64_t n, Reg x) { svst1_f32(first(n), p, x); }
  static Reg load(const Bf16* p) { return widen_bf16(svld1uh_u32(all(), &p->bits)); }
  static Reg load_first(const Bf16* p, std::int64_t n) { return widen_bf16(svld1uh_u32(first(n), &p->bits)); }
  static void store(Bf16* p, Reg x) { svst1h_u32(all(), &p->bits, narrow_bf16(x)); }
  static void store_first(Bf16* p, std::int64_t n, Reg x) { svst1h_u32(first(n), &p->bits, narrow_bf16(x)); }
  static Reg load(const F16* p) { return widen_f16(svld1uh_u32(all(), &p->bits)); }
  static Reg load_first(const F16* p, std::int64_t n) { return widen_f16(svld1uh_u32(first(n), &p->bits)); }
  static void store(F16* p, Reg x) { svst1h_u32(all(), &p->bits, narrow_f16(x)); }
  static void store_first(F16* p, std::int64_t n, Reg x) { svst1h_u32(first(n), &p->bits, narrow_f16(x)); }
  /// The first elements of 16 pairs, and the second elements.
  static void load_pairs(const Bf16* p, Reg& first, Reg& second) {
    const svuint32_t both = load_both(&p->bits);
    first = widen_bf16(both);
    second = svreinterpret_f32_u32(svand_n_u32_x(all(), both, 0xffff0000u));
  }
  static void load_pairs(const F16* p, Reg& first, Reg& second) {
    const svuint32_t both = load_both(&p->bits);
    first = widen_f16(both);
    second = widen_f16(svlsr_n_u32_x(all(), both, 16));
  }
  static void store_halves(float* low, float* high, Reg x) {
    svst1_f32(svptrue_pat_b32(SV_VL8), low, x);
    svst1_f32(svnot_b_z(all(), svptrue_pat_b32(SV_VL8)), high - kMr, x);
  }
  static Reg load(const Bool8* p) { return svcvt_f32_u32_x(all(), svld1ub_u32(all(), &p->bits)); }
  static Reg load_first(const Bool8* p, std::int64_t n) {
    return svcvt_f32_u32_x(all(), svld1ub_u32(first(n), &p->bits));
  }
  static Reg set1(float x) { return svdup_f32(x); }
  static Reg zero() { return svdup_f32(0.0f); }
  static Reg to_float(Int x) { return svcvt_f32_s32_x(all(), x); }
  static Reg add(Reg a, Reg b) { return svadd_f32_x(all(), a, b); }
  static Reg sub(Reg a, Reg b) { return svsub_f32_x(all(), a, b); }
  static Reg mul(Reg a, Reg b) { return svmul_f32_x(all(), a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return svmla_f32_x(all(), c, a, b); }
  // Not FMAX (NaN if either operand is NaN) nor FMAXNM (+0 of two zeros): b where the comparison fails, as on
  // x86.
  static Reg max(Reg a, Reg b) { return svsel_f32(svcmpgt_f32(all(), a, b), a, b); }
  static float reduce_max(Reg a) { return svmaxnmv_f32(all(), a); }
  /// canonical() of element.h in every lane. (Avx512 has canonical_plus_zero(), too.)
  static Reg canonical(Reg x) {
    return svsel_f32(svcmpuo_f32(all(), x, x), svreinterpret_f32_u32(svdup_u32(kCanonicalNan)), x);
  }
  static Reg swap_pairs(Reg x) {
    return svreinterpret_f32_u64(svrevw_u64_x(all(), svreinterpret_u64_f32(x)));
  }
  static bool any_nan(Reg a) { return svptest_any(all(), svcmpuo_f32(all(), a, a)); }
  static Reg zero_if_minus_infinity(Reg a) {
    return svsel_f32(svcmpeq_n_f32(all(), a, -__builtin_inff()), zero(), a);
  }
  static Reg keep_visible(Reg x, Int begin, Int end, std::int32_t j) {
    const svbool_t visible = svcmpgt_n_s32(svcmple_n_s32(all(), begin, j), end, j);
    return svsel_f32(visible, x, set1(-__builtin_inff()));
  }
  static Reg keep_between(Reg x, std::int32_t begin, std::int32_t end, std::int32_t first) {
    const Int at = svindex_s32(first, 1);
    const svbool_t visible = svcmplt_n_s32(svcmpge_n_s32(all(), at, begin), at, end);
    return svsel_f32(visible, x, set1(-__builtin_inff()));
  }

  static Reg div(Reg a, Reg b) { return svdiv_f32_x(all(), a, b); }
  static Reg abs(Reg a) { return svabs_f32_x(all(), a); }
  static Reg copysign(Reg magnitude, Reg sign) {
    const svuint32_t top = svand_n_u32_x(all(), svreinterpret_u32_f32(sign), 0x80000000u);
    const svuint32_t rest = svand_n_u32_x(all(), svreinterpret_u32_f32(magnitude), 0x7fffffffu);
    return svreinterpret_f32_u32(svorr_u32_x(all(), top, rest));
  }
  static Reg select_less(Reg a, Reg b, Reg yes, Reg no) {
    return svsel_f32(svcmplt_f32(all(), a, b), yes, no);
  }
  static Reg minus_infinity_if_zero(Reg x, Reg mask) {
    return svsel_f32(svcmpeq_n_f32(all(), mask, 0.0f), set1(-__builtin_inff()), x);
  }
  static Reg distance(Int position, std::int32_t j) {
    return svcvt_f32_s32_x(all(), svabs_s32_x(all(), svsub_n_s32_x(all(), position, j)));
  }
  static Reg distances(std::int32_t position, std::int32_t j) {
    return svcvt_f32_s32_x(all(), svabs_s32_x(all(), svsubr_n_s32_x(all(), svindex_s32(j, 1), position)));
  }

  /// 2^x for x <= 0 (and NaN) with FEXPA: see exp2.h. FMAX, unlike max(), lets NaN through.
  static Reg exp2(Reg x) {
    const Reg raised = svmax_n_f32_x(all(), x, kFexpaLowest);
    const Reg z = svadd_n_f32_x(all(), raised, kFexpaShift);
    const Reg r = svsub_f32_x(all(), raised, svsub_n_f32_x(all(), z, kFexpaShift));
    const Reg scale = svexpa_f32(svreinterpret_u32_f32(z));
    const Reg p = svmul_f32_x(all(), svmla_f32_x(all(), set1(kFexpaPoly[0]), r, set1(kFexpaPoly[1])), r);
    return svmla_f32_x(all(), scale, scale, p);
  }

  /// Each perfect shuffle of all 256 elements rotates their indices (4 bits of row, 4 of lane) by one bit;
  /// four of them swap row and lane.
  [[gnu::always_inline]] static void transpose(Reg (&x)[16]) {
    Reg t[16];
    shuffle(x, t);
    shuffle(t, x);
    shuffle(x, t);
    shuffle(t, x);
  }

 private:
  static svbool_t all() { return svptrue_b32(); }
  static svbool_t first(std::int64_t n) { return svwhilelt_b32_s64(0, n); }
  static void shuffle(const Reg (&x)[16], Reg (&y)[16]) {
#pragma GCC unroll 16
    for (int i = 0; i < 8; ++i) {
      y[2 * i] = svzip1_f32(x[i], x[i + 8]);
      y[2 * i + 1] = svzip2_f32(x[i], x[i + 8]);
    }
  }
  static svuint32_t load_both(const std::uint16_t* p) {
    return svreinterpret_u32_u16(svld1_u16(svptrue_b16(), p));
  }
  static Reg widen_bf16(svuint32_t x) {
    return svreinterpret_f32_u32(svlsl_n_u32_x(all(), x, 16));
  }
  static svuint32_t narrow_bf16(Reg x) {
    const svuint32_t bits = svreinterpret_u32_f32(x);
    const svuint32_t odd = svand_n_u32_x(all(), svlsr_n_u32_x(all(), bits, 16), 1);
    const svuint32_t rounded = svadd_u32_x(all(), svadd_n_u32_x(all(), bits, 0x7fff), odd);
    const svuint32_t quiet = svorr_n_u32_x(all(), bits, 0x00400000);
    return svlsr_n_u32_x(all(), svsel_u32(svcmpuo_f32(all(), x, x), quiet, rounded), 16);
  }
  // FCVT converts the lower half of each 32 bits, and FZ16 does not affect it: subnormal halves keep their
  // value.
  static Reg widen_f16(svuint32_t x) {
    return svcvt_f32_f16_x(all(), svreinterpret_f16_u32(x));
  }
  static svuint32_t narrow_f16(Reg x) {
    return svreinterpret_u32_f16(svcvt_f16_f32_x(all(), x));
  }
};

}  // namespace
}  // namespace kumiko::kernels
