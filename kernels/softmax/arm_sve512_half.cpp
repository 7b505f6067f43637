// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/arm_sve512_half.h"

#include "kernels/softmax/vector.h"

extern "C" {
void softmax_f16_4_sve512_exponentiate(float* s, std::int64_t keys, const float* shift,
                                       std::uint32_t* sum) noexcept;
void softmax_f16_4_sve512_round(float* s, std::int64_t keys, const float* factor, float* sum) noexcept;
void softmax_f16_4_sve512_round_alone(float* s, std::int64_t keys, const float* factor) noexcept;
}

namespace kumiko::kernels {
namespace {

using V = Sve512;
using Sum = HalfSum;
constexpr int kVectors = 4;  // of a tile's 64 queries
constexpr int kNr = kVectors * V::kLanes;

struct Largest {
  V::Reg of[kVectors];
};

/// The largest finite magnitude of each query's scores.
Largest largest_finite(const SoftmaxArgs& args) {
  Largest most;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) most.of[v] = V::zero();
  const float* s = args.s;
  for (std::int64_t j = 0; j < args.kv; ++j, s += kNr) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      const V::Reg x = V::abs(V::load(s + v * V::kLanes));
      most.of[v] = V::max(V::select_less(x, V::set1(__builtin_inff()), x, V::zero()), most.of[v]);
    }
  }
  return most;
}

/// The same, of bits as whole numbers where all are finite: 4 operations less a key and vector, of which one
/// is a comparison, on pipe A alone.
Largest largest_magnitudes(const SoftmaxArgs& args) {
  const svbool_t all = svptrue_b32();
  constexpr int kChains = 2;
  HalfSum most[kChains][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kChains * kVectors; ++i) most[i / kVectors][i % kVectors] = svdup_u32(0);
  const auto* s = reinterpret_cast<const std::uint32_t*>(args.s);
  const auto raise = [&](HalfSum& to, const std::uint32_t* from) {
    to = svmax_u32_x(all, to, svand_n_u32_x(all, svld1_u32(all, from), 0x7fffffff));
  };
  std::int64_t j = 0;
  for (; j + kChains <= args.kv; j += kChains, s += kChains * kNr) {
#pragma GCC unroll 8
    for (int i = 0; i < kChains * kVectors; ++i) raise(most[i / kVectors][i % kVectors], s + i * V::kLanes);
  }
  if (j < args.kv) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) raise(most[0][v], s + v * V::kLanes);
  }
  Largest found;
  svbool_t beyond = svpfalse_b();
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const HalfSum bits = svmax_u32_x(all, most[0][v], most[1][v]);
    found.of[v] = svreinterpret_f32_u32(bits);
    beyond = svorr_b_z(all, beyond, svcmpge_n_u32(all, bits, 0x7f800000));
  }
  return svptest_any(all, beyond) ? largest_finite(args) : found;
}

void store_factors(const V::Reg (&factor)[kVectors], float* to) {
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) V::store(to + v * V::kLanes, factor[v]);
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
    // The exponentials are kHalfSumOne too large.
    factor[v] = V::mul(V::exp2(V::sub(top, m_shift)), V::set1(1.0f / kHalfSumOne));
    V::store(args.l + at, V::mul(V::load(args.l + at), alpha));
    V::store(args.m + at, m);
    V::store(args.alpha + at, alpha);
  }
  alignas(64) float factors[kNr];
  store_factors(factor, factors);
  softmax_f16_4_sve512_round(args.s, args.kv, factors, args.l);
}

void softmax_f16_sve512_weights(const SoftmaxArgs& args) noexcept {
  const Largest largest = largest_magnitudes(args);
  V::Reg factor[kVectors];
  const svbool_t all = svptrue_b32();
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    const svint32_t exponent = svmin_n_s32_x(
        all, svsub_n_s32_x(all, svasr_n_s32_x(all, svreinterpret_s32_f32(largest.of[v]), 23), 126), 126);
    const V::Reg own = svsel_f32(svcmpeq_n_f32(all, largest.of[v], 0.0f), V::set1(-__builtin_inff()),
                                 svcvt_f32_s32_x(all, exponent)),
                 old = V::load(args.m + at), m = V::max(own, old), shift = V::zero_if_minus_infinity(m);
    factor[v] = V::exp2(V::sub(V::zero(), shift));
    V::store(args.m + at, m);
    V::store(args.alpha + at, V::exp2(V::sub(old, shift)));
  }
  alignas(64) float factors[kNr];
  store_factors(factor, factors);
  softmax_f16_4_sve512_round_alone(args.s, args.kv, factors);
}

void softmax_f16_sve512_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<V>(x, y, n);
}

}  // namespace kumiko::kernels
