// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/arm_sve512_half.h"

#include "kernels/softmax/vector.h"

namespace kumiko::kernels {
namespace {

using V = Sve512;
using Sum = HalfSum;
constexpr int kVectors = 4;  // of a tile's 64 queries
constexpr int kNr = kVectors * V::kLanes;

/// P from what lies in its place times `factor`; `sum` gets what was stored, key by key.
void store_weights(const SoftmaxArgs& args, const V::Reg (&factor)[kVectors], V::Reg (&sum)[kVectors]) {
  const float* s = args.s;
  auto* p = reinterpret_cast<std::uint16_t*>(args.s);
  for (std::int64_t j = 0; j < args.kv; ++j, s += kNr, p += kNr) {
    V::Reg x[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) x[v] = V::mul(V::load(s + v * V::kLanes), factor[v]);
    asm volatile("" ::: "memory");  // P of the first key overwrites its own S.
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[v] = V::add(sum[v], store_half_weight(p + v * V::kLanes, x[v]));
  }
}

}  // namespace

void softmax_f16_sve512_mask_scores(const MaskArgs& args) noexcept {
  mask_scores<V, kVectors>(args);
}

void softmax_f16_sve512_probabilities(const SoftmaxArgs& args) noexcept {
  V::Reg top[kVectors], shift[kVectors], weight[kVectors], factor[kVectors];
  Sum sum[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    top[v] = V::load(args.block_max + v * V::kLanes);
    shift[v] = V::zero_if_minus_infinity(top[v]);
    sum[v] = svdup_u32(0);
  }
  float* s = args.s;
  for (std::int64_t j = 0; j < args.kv; ++j, s += kNr) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const V::Reg p = V::exp2(V::sub(V::load(s + v * V::kLanes), shift[v]));
      V::store(s + v * V::kLanes, p);
      sum[v] = add_half_probability(sum[v], p);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    const V::Reg old = V::load(args.m + at), m = V::max(V::sub(top[v], half_headroom(sum[v])), old);
    const V::Reg m_shift = V::zero_if_minus_infinity(m), alpha = V::exp2(V::sub(old, m_shift));
    factor[v] = V::exp2(V::sub(top[v], m_shift));
    weight[v] = V::mul(V::load(args.l + at), alpha);
    V::store(args.m + at, m);
    V::store(args.alpha + at, alpha);
  }
  store_weights(args, factor, weight);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) V::store(args.l + v * V::kLanes, weight[v]);
}

void softmax_f16_sve512_weights(const SoftmaxArgs& args) noexcept {
  V::Reg largest[kVectors], factor[kVectors], unused[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) largest[v] = unused[v] = V::zero();
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
  store_weights(args, factor, unused);
}

void softmax_f16_sve512_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<V>(x, y, n);
}

}  // namespace kumiko::kernels
