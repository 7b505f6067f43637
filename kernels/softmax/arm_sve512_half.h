// SPDX-License-Identifier: Apache-2.0
// Steps of softmax.h's product f16 for tiles and for decode.
#pragma once

#include "kernels/simd/sve512.h"
#include "kernels/softmax/half.h"

namespace kumiko::kernels {
namespace {

using HalfSum = svuint32_t __attribute__((arm_sve_vector_bits(512)));

inline HalfSum add_half_probability(HalfSum sum, Sve512::Reg p) {
  const svbool_t all = svptrue_b32();
  return svadd_u32_x(all, sum, svcvt_u32_f32_x(all, Sve512::mul(p, Sve512::set1(kHalfSumOne))));
}

/// half_headroom() of every lane.
inline Sve512::Reg half_headroom(HalfSum sum) {
  const svbool_t all = svptrue_b32();
  const svint32_t exponent =
      svsub_n_s32_x(all, svsubr_n_s32_x(all, svreinterpret_s32_u32(svclz_u32_x(all, sum)), 31), 16);
  const svint32_t known = svsel_s32(svcmpeq_n_u32(all, sum, 0), svdup_s32(0), exponent);
  return svcvt_f32_s32_x(all, svsubr_n_s32_x(all, known, 6));
}

/// half_weight() of every lane, stored.
inline Sve512::Reg store_half_weight(std::uint16_t* to, Sve512::Reg p) {
  const svbool_t all = svptrue_b32();
  const Sve512::Reg kept = svsel_f32(svaclt_n_f32(all, p, kHalfLeastWeight), Sve512::zero(), p);
  const svfloat16_t rounded = svcvt_f16_f32_x(all, kept);
  svst1h_u32(all, to, svreinterpret_u32_f16(rounded));
  return svcvt_f32_f16_x(all, rounded);
}

}  // namespace
}  // namespace kumiko::kernels
