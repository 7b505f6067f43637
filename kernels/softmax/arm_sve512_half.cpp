// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/arm_sve512_half.h"

#include "kernels/softmax/vector.h"

extern "C" {
void softmax_f16_4_sve512_exponentiate(float* s, std::int64_t keys, const float* shift,
                                       std::uint32_t* sum) noexcept;
void softmax_f16_4_sve512_round(float* s, std::int64_t keys, const float* factor, float* sum) noexcept;
}

namespace kumiko::kernels {
namespace {

using V = Sve512;
using Sum = HalfSum;
constexpr int kVectors = 4;  // of a tile's 64 queries
constexpr int kNr = kVectors * V::kLanes;

/// P from what lies in its place times `factor`; `sum` gets what was stored, key by key.
void store_weights(const SoftmaxArgs& args, const V::Reg (&factor)[kVectors], float* sum) {
  alignas(64) float factors[kNr];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) V::store(factors + v * V::kLanes, factor[v]);
  softmax_f16_4_sve512_round(args.s, args.kv, factors, sum);
}

}  // namespace

void softmax_f16_sve512_mask_scores(const MaskArgs& args) noexcept {
  mask_scores<V, kVectors>(args);
}

void softmax_f16_sve512_probabilities(const SoftmaxArgs& args) noexcept {
  alignas(64) float shift[kNr];
  alignas(64) std::uint32_t sums[kNr] = {};
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    V::store(shift + at, V::zero_if_minus_infinity(V::load(args.block_max + at)));
  }
  softmax_f16_4_sve512_exponentiate(args.s, args.kv, shift, sums);
  V::Reg factor[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    const Sum sum = svld1_u32(svptrue_b32(), sums + at);
    const V::Reg top = V::load(args.block_max + at), old = V::load(args.m + at),
                 m = V::max(V::sub(top, half_headroom(sum)), old), m_shift = V::zero_if_minus_infinity(m),
                 alpha = V::exp2(V::sub(old, m_shift));
    factor[v] = V::exp2(V::sub(top, m_shift));
    V::store(args.l + at, V::mul(V::load(args.l + at), alpha));
    V::store(args.m + at, m);
    V::store(args.alpha + at, alpha);
  }
  store_weights(args, factor, args.l);
}

void softmax_f16_sve512_weights(const SoftmaxArgs& args) noexcept {
  V::Reg largest[kVectors], factor[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) largest[v] = V::zero();
  const float* s = args.s;
  for (std::int64_t j = 0; j < args.kv; ++j, s += kNr) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const V::Reg x = V::abs(V::load(s + v * V::kLanes));
      largest[v] = V::max(V::select_less(x, V::set1(__builtin_inff()), x, V::zero()), largest[v]);
    }
  }
  const svbool_t all = svptrue_b32();
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    const svint32_t exponent = svmin_n_s32_x(
        all, svsub_n_s32_x(all, svasr_n_s32_x(all, svreinterpret_s32_f32(largest[v]), 23), 126), 126);
    const V::Reg own = svsel_f32(svcmpeq_n_f32(all, largest[v], 0.0f), V::set1(-__builtin_inff()),
                                 svcvt_f32_s32_x(all, exponent)),
                 old = V::load(args.m + at), m = V::max(own, old), shift = V::zero_if_minus_infinity(m);
    factor[v] = V::exp2(V::sub(V::zero(), shift));
    V::store(args.m + at, m);
    V::store(args.alpha + at, V::exp2(V::sub(old, shift)));
  }
  alignas(64) float unused[kNr] = {};
  store_weights(args, factor, unused);
}

void softmax_f16_sve512_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<V>(x, y, n);
}

}  // namespace kumiko::kernels
