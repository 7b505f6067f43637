// SPDX-License-Identifier: Apache-2.0
// Steps of softmax.h's product f16 for tiles and for decode.
//
// An exponential 2^(s - b): s is raised to at least b - 29, the addition z = s + (kHalfFexpaShift - b) rounds
// to 64ths, r = s - (z - (kHalfFexpaShift - b)) is exact, and the result is 2^15 * 2^n + 2^15 * 2^n * (r ln
// 2). b is a whole number, so its sum with the shift is exact up to kHalfLargestReference. A larger b is
// first subtracted from the scores, which are then as coarse as b is. A score 29 or more below b gives 2^-14,
// which becomes 0 when it is multiplied by 2^places, at most 2^-8. So no conversion to f16 has a subnormal
// result: these are slow on this core even with FZ16.
#pragma once

#include "kernels/simd/sve512_half.h"
#include "kernels/softmax/half.h"

namespace kumiko::kernels {
namespace {

using HalfSum = svuint32_t __attribute__((arm_sve_vector_bits(512)));
using HalfPlaces = svint32_t __attribute__((arm_sve_vector_bits(512)));

inline constexpr float kHalfFexpaShift = kFexpaShift + kHalfExponent, kHalfLargestReference = 0x1p22f;
inline constexpr float kHalfLowest = -29.0f;  // where an exponential is kHalfLeastWeight

/// A block's reference b: its largest score, rounded up to a whole number.
inline Sve512::Reg half_reference(Sve512::Reg top) {
  return svrintp_f32_x(svptrue_b32(), top);
}

/// The constants of half_exponential() for a reference b; b is 0 where the reference is subtracted from the
/// scores first.
struct HalfShift {
  Sve512::Reg least, sum;
  explicit HalfShift(Sve512::Reg b)
      : least(Sve512::add(b, Sve512::set1(kHalfLowest))),
        sum(Sve512::sub(Sve512::set1(kHalfFexpaShift), b)) {}
};
inline svbool_t large_half_references(Sve512::Reg b) {
  return svacge_n_f32(svptrue_b32(), b, kHalfLargestReference);
}
inline bool is_any_large_half_reference(Sve512::Reg b) {
  return svptest_any(svptrue_b32(), large_half_references(b));
}
/// What is subtracted from the scores first: b if it is too large, else 0.
inline Sve512::Reg large_half_reference(Sve512::Reg b) {
  return svsel_f32(large_half_references(b), b, Sve512::zero());
}

inline Sve512::Reg half_exponential(Sve512::Reg s, const HalfShift& shift) {
  const svbool_t all = svptrue_b32();
  const Sve512::Reg raised = svmax_f32_x(all, s, shift.least), z = svadd_f32_x(all, raised, shift.sum),
                    r = svsub_f32_x(all, raised, svsub_f32_x(all, z, shift.sum)),
                    power = svexpa_f32(svreinterpret_u32_f32(z));
  return svmla_f32_x(all, power, power, svmul_n_f32_x(all, r, kHalfFexpaPoly));
}
inline HalfSum add_half_exponential(HalfSum sum, Sve512::Reg p) {
  const svbool_t all = svptrue_b32();
  return svadd_u32_x(all, sum, svreinterpret_u32_f32(svadd_n_f32_x(all, p, kHalfSumShift)));
}
/// The sum of a block's p_j, from that of `keys` sums with kHalfSumShift.
inline HalfSum half_sum(HalfSum sum, std::int64_t keys) {
  return svsub_n_u32_x(svptrue_b32(), sum, static_cast<std::uint32_t>(keys) * kHalfSumBits);
}

/// half_headroom() of every lane.
inline Sve512::Reg half_headroom(HalfSum sum) {
  const svbool_t all = svptrue_b32();
  const HalfPlaces exponent = svsub_n_s32_x(
      all, svsubr_n_s32_x(all, svreinterpret_s32_u32(svclz_u32_x(all, sum)), 31), kHalfSumPlaces);
  const HalfPlaces known = svsel_s32(svcmpeq_n_u32(all, sum, 0), svdup_s32(0), exponent);
  return svcvt_f32_s32_x(all, svsubr_n_s32_x(all, known, 6));
}

/// The m, l and alpha after a block, from its sum and reference b, and the powers of two that make P of its
/// exponentials.
struct HalfReference {
  Sve512::Reg m, alpha, l;
  HalfPlaces places;  ///< P = f16(exponential) * 2^places

  HalfReference(Sve512::Reg b, HalfSum sum, Sve512::Reg old_m, Sve512::Reg old_l) {
    using V = Sve512;
    const svbool_t all = svptrue_b32();
    m = V::max(V::sub(b, half_headroom(sum)), old_m);
    const V::Reg m_shift = V::zero_if_minus_infinity(m), exponent = V::sub(b, m_shift);
    alpha = V::exp2(V::sub(old_m, m_shift));
    const V::Reg of_sum = V::mul(V::exp2(exponent), V::set1(0x1p-23f));
    static_assert(kHalfSumPlaces == 23);
    l = V::fma(svcvt_f32_u32_x(all, sum), of_sum, V::mul(old_l, alpha));
    places =
        svcvt_s32_f32_x(all, V::max(V::sub(exponent, V::set1(kHalfExponent)), V::set1(kHalfLeastExponent)));
  }
};

}  // namespace
}  // namespace kumiko::kernels
