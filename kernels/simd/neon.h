// SPDX-License-Identifier: Apache-2.0
// f32 vectors of 4 lanes. Included only by files compiled for AArch64. Same members as simd/avx512.h.
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "kernels/element.h"
#include "kernels/simd/exp2.h"

namespace kumiko::kernels {
namespace {

struct Neon {
  using Reg = float32x4_t;
  using Int = int32x4_t;
  static constexpr int kLanes = 4;
  static constexpr int kMr = 8;

  static Reg load(const float* p) { return vld1q_f32(p); }
  static Int load(const std::int32_t* p) { return vld1q_s32(p); }
  static Reg to_float(Int x) { return vcvtq_f32_s32(x); }
  static void store(float* p, Reg x) { vst1q_f32(p, x); }
  // There are no masked loads: up to three lanes are loaded as a pair and a single lane.
  static Reg load_first(const float* p, std::int64_t n) {
    if (n >= 4) return vld1q_f32(p);
    if (n == 3) return vld1q_lane_f32(p + 2, vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f)), 2);
    if (n == 2) return vcombine_f32(vld1_f32(p), vdup_n_f32(0.0f));
    return n == 1 ? vld1q_lane_f32(p, zero(), 0) : zero();
  }
  static void store_first(float* p, std::int64_t n, Reg x) {
    if (n >= 4) {
      vst1q_f32(p, x);
      return;
    }
    if (n >= 2) vst1_f32(p, vget_low_f32(x));
    if (n == 3) vst1q_lane_f32(p + 2, x, 2);
    if (n == 1) vst1q_lane_f32(p, x, 0);
  }
  static Reg load(const Bf16* p) { return widen_bf16(vld1_u16(&p->bits)); }
  static Reg load_first(const Bf16* p, std::int64_t n) { return widen_bf16(load_first_16(p, n)); }
  static void store(Bf16* p, Reg x) { vst1_u16(&p->bits, narrow_bf16(x)); }
  static void store_first(Bf16* p, std::int64_t n, Reg x) { store_first_16(p, n, narrow_bf16(x)); }
  static Reg load(const F16* p) { return widen_f16(vld1_u16(&p->bits)); }
  static Reg load_first(const F16* p, std::int64_t n) { return widen_f16(load_first_16(p, n)); }
  static void store(F16* p, Reg x) { vst1_u16(&p->bits, narrow_f16(x)); }
  static void store_first(F16* p, std::int64_t n, Reg x) { store_first_16(p, n, narrow_f16(x)); }
  /// The first elements of 4 pairs, and the second elements.
  static void load_pairs(const Bf16* p, Reg& first, Reg& second) {
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(&p->bits));
    first = vreinterpretq_f32_u32(vshlq_n_u32(both, 16));
    second = vreinterpretq_f32_u32(vandq_u32(both, vdupq_n_u32(0xffff0000u)));
  }
  static void load_pairs(const F16* p, Reg& first, Reg& second) {
    const uint32x4_t both = vreinterpretq_u32_u16(vld1q_u16(&p->bits));
    first = widen_f16(vmovn_u32(both));
    second = widen_f16(vshrn_n_u32(both, 16));
  }
  static Reg load(const Bool8* p) { return load_first(p, kLanes); }
  static Reg load_first(const Bool8* p, std::int64_t n) {
    std::uint32_t bytes = 0;
    if (n > 0) std::memcpy(&bytes, p, static_cast<std::size_t>(n < 4 ? n : 4));
    const uint16x8_t wide = vmovl_u8(vcreate_u8(bytes));
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(wide)));
  }
  static Reg set1(float x) { return vdupq_n_f32(x); }
  static Reg zero() { return vdupq_n_f32(0.0f); }
  static Reg add(Reg a, Reg b) { return vaddq_f32(a, b); }
  static Reg sub(Reg a, Reg b) { return vsubq_f32(a, b); }
  static Reg mul(Reg a, Reg b) { return vmulq_f32(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return vfmaq_f32(c, a, b); }
  // Not FMAX (NaN if either operand is NaN) nor FMAXNM (+0 of two zeros): b where the comparison fails, as on
  // x86.
  static Reg max(Reg a, Reg b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
  static float reduce_max(Reg a) { return vmaxnmvq_f32(a); }
  /// canonical() of element.h in every lane. (Avx512 has canonical_plus_zero(), too.)
  static Reg canonical(Reg x) {
    return vbslq_f32(vceqq_f32(x, x), x, vreinterpretq_f32_u32(vdupq_n_u32(kCanonicalNan)));
  }
  static Reg swap_pairs(Reg x) { return vrev64q_f32(x); }
  static bool any_nan(Reg a) { return vminvq_u32(vceqq_f32(a, a)) == 0; }
  static Reg zero_if_minus_infinity(Reg a) { return clear(a, vceqq_f32(a, set1(-__builtin_inff()))); }
  static Reg keep_visible(Reg x, Int begin, Int end, std::int32_t j) {
    const Int at = vdupq_n_s32(j);
    return vbslq_f32(vandq_u32(vcleq_s32(begin, at), vcgtq_s32(end, at)), x, set1(-__builtin_inff()));
  }
  static Int lane_index() {
    constexpr std::int32_t kIndex[] = {0, 1, 2, 3};
    return vld1q_s32(kIndex);
  }
  static Reg keep_between(Reg x, std::int32_t begin, std::int32_t end, std::int32_t first) {
    const Int at = vaddq_s32(lane_index(), vdupq_n_s32(first));
    const uint32x4_t visible = vandq_u32(vcgeq_s32(at, vdupq_n_s32(begin)), vcltq_s32(at, vdupq_n_s32(end)));
    return vbslq_f32(visible, x, set1(-__builtin_inff()));
  }

  static Reg div(Reg a, Reg b) { return vdivq_f32(a, b); }
  static Reg abs(Reg a) { return vabsq_f32(a); }
  static Reg copysign(Reg magnitude, Reg sign) {
    return vbslq_f32(vdupq_n_u32(0x80000000u), sign, magnitude);
  }
  static Reg select_less(Reg a, Reg b, Reg yes, Reg no) { return vbslq_f32(vcltq_f32(a, b), yes, no); }
  static Reg minus_infinity_if_zero(Reg x, Reg mask) {
    return vbslq_f32(vceqzq_f32(mask), set1(-__builtin_inff()), x);
  }
  static Reg distance(Int position, std::int32_t j) {
    return vcvtq_f32_s32(vabsq_s32(vsubq_s32(position, vdupq_n_s32(j))));
  }
  static Reg distances(std::int32_t position, std::int32_t j) {
    const Int at = vaddq_s32(lane_index(), vdupq_n_s32(j));
    return vcvtq_f32_s32(vabsq_s32(vsubq_s32(vdupq_n_s32(position), at)));
  }

  static Reg exp2(Reg x) {
    const Reg n = vrndnq_f32(x);
    const Reg f = vsubq_f32(x, n);
    Reg p = set1(kExp2Poly[6]);
#pragma GCC unroll 16
    for (int i = 5; i >= 0; --i) p = vfmaq_f32(set1(kExp2Poly[i]), p, f);
    // p is in [0.7, 1.42]: n goes straight into the exponent field. (NaN converts to 0: p stays NaN.)
    const Int exponent = vshlq_n_s32(vcvtq_s32_f32(n), 23);
    const Reg y = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(p), exponent));
    return clear(y, vcltq_f32(x, set1(kExp2Underflow)));
  }

  [[gnu::always_inline]] static void transpose(Reg (&x)[4]) {
    const Reg even01 = vtrn1q_f32(x[0], x[1]), odd01 = vtrn2q_f32(x[0], x[1]);
    const Reg even23 = vtrn1q_f32(x[2], x[3]), odd23 = vtrn2q_f32(x[2], x[3]);
    x[0] = vcombine_f32(vget_low_f32(even01), vget_low_f32(even23));
    x[1] = vcombine_f32(vget_low_f32(odd01), vget_low_f32(odd23));
    x[2] = vcombine_f32(vget_high_f32(even01), vget_high_f32(even23));
    x[3] = vcombine_f32(vget_high_f32(odd01), vget_high_f32(odd23));
  }

 private:
  static Reg widen_bf16(uint16x4_t x) {
    return vreinterpretq_f32_u32(vshll_n_u16(x, 16));
  }
  static uint16x4_t narrow_bf16(Reg x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x), odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(vaddq_u32(bits, vdupq_n_u32(0x7fff)), odd);
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x00400000));
    return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
  }
  static Reg widen_f16(uint16x4_t x) {
    return vcvt_f32_f16(vreinterpret_f16_u16(x));
  }
  static uint16x4_t narrow_f16(Reg x) {
    return vreinterpret_u16_f16(vcvt_f16_f32(x));
  }
  static uint16x4_t load_first_16(const void* p, std::int64_t n) {
    std::uint64_t bits = 0;
    if (n > 0) std::memcpy(&bits, p, static_cast<std::size_t>(n < 4 ? 2 * n : 8));
    return vcreate_u16(bits);
  }
  static void store_first_16(void* p, std::int64_t n, uint16x4_t x) {
    const std::uint64_t bits = vget_lane_u64(vreinterpret_u64_u16(x), 0);
    if (n > 0) std::memcpy(p, &bits, static_cast<std::size_t>(n < 4 ? 2 * n : 8));
  }
  static Reg clear(Reg x, uint32x4_t where) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(x), where));
  }
};

}  // namespace
}  // namespace kumiko::kernels
