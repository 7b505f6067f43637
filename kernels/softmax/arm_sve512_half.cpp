// SPDX-License-Identifier: Apache-2.0
#include "kernels/softmax/arm_sve512_half.h"

#include "kernels/softmax/vector.h"

using kumiko::kernels::F16;

extern "C" {
void softmax_f16_4_sve512_exponentiate(float* s, std::int64_t keys, const float* least,
                                       std::uint32_t* sum) noexcept;
void softmax_f16_4_sve512_scale(F16* p, std::int64_t fours, const std::int16_t* exponent,
                                F16* found) noexcept;
void softmax_f16_4_sve512_round(float* s, std::int64_t keys, const std::int32_t* exponent) noexcept;
}

namespace kumiko::kernels {
namespace {

using V = Sve512;
using H = Sve512Half;
constexpr int kVectors = 4;  // of a tile's 64 queries
constexpr int kNr = kVectors * V::kLanes;
constexpr int kFlushExponent = 112;  // scaled down by 2^112, 2^-14 is the smallest normal f32

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

/// The same. Where all scores are finite their bits are compared as integers: 4 operations fewer per key and
/// vector, one of them a comparison, which only pipe A executes.
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

/// Subtracts references that are too large for HalfShift from the scores of their queries.
void subtract_large(const SoftmaxArgs& args, V::Reg (&b)[kVectors]) {
  V::Reg large[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    large[v] = large_half_reference(b[v]);
    b[v] = V::sub(b[v], large[v]);
  }
  float* s = args.s;
  for (std::int64_t j = 0; j < args.kv; ++j, s += kNr) {
    for (int v = 0; v < kVectors; ++v)
      V::store(s + v * V::kLanes, V::sub(V::load(s + v * V::kLanes), large[v]));
  }
}

/// Multiplies the exponentials in f16 by their powers of two; l becomes NaN where one of them is NaN.
/// Multiply-adds find the NaNs of two keys at a time: products of numbers that are not negative cannot add up
/// to NaN.
void apply_reference(const SoftmaxArgs& args, const H::ShiftBits (&places)[2]) {
  constexpr std::int64_t kKeys = 4;
  auto* p = reinterpret_cast<F16*>(args.s);
  H::Reg found[2] = {H::zero(), H::zero()};
  const std::int64_t fours = args.kv / kKeys;
  if (fours > 0) {
    alignas(64) std::int16_t exponents[kNr];
    alignas(64) F16 sums[2 * kNr] = {};
    for (int i = 0; i < 2; ++i) svst1_s16(H::all(), exponents + i * H::kLanes, places[i]);
    softmax_f16_4_sve512_scale(p, fours, exponents, sums);
    for (int i = 0; i < 2; ++i)
      found[i] = H::add(H::load(sums + i * H::kLanes), H::load(sums + kNr + i * H::kLanes));
    p += fours * kKeys * kNr;
  }
  for (std::int64_t j = fours * kKeys; j < args.kv; ++j, p += kNr) {
    for (int i = 0; i < 2; ++i) {
      const H::Reg x = H::load(p + i * H::kLanes);
      found[i] = H::fma(x, x, found[i]);
      H::store(p + i * H::kLanes, H::scale(x, places[i]));
    }
  }
  if (!svptest_any(H::all(), svcmpuo_f16(H::all(), found[0], found[0])) &&
      !svptest_any(H::all(), svcmpuo_f16(H::all(), found[1], found[1])))
    return;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const V::Reg x = v % 2 == 0 ? H::low(found[v / 2]) : H::high(found[v / 2]),
                 l = V::load(args.l + v * V::kLanes);
    V::store(args.l + v * V::kLanes, svsel_f32(svcmpuo_f32(svptrue_b32(), x, x), x, l));
  }
}

}  // namespace

void softmax_f16_sve512_mask_scores(const MaskArgs& args) noexcept {
  mask_scores<V, kVectors>(args);
}

void softmax_f16_sve512_probabilities(const SoftmaxArgs& args) noexcept {
  alignas(64) float shift[2 * kNr];
  alignas(64) std::uint32_t sums[kNr] = {};
  V::Reg b[kVectors], seen[kVectors];
  bool is_any_large = false;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    b[v] = half_reference(V::load(args.block_max + v * V::kLanes));
    seen[v] = V::zero_if_minus_infinity(b[v]);
    is_any_large = is_any_large || is_any_large_half_reference(seen[v]);
  }
  if (is_any_large) subtract_large(args, seen);
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const HalfShift of(seen[v]);
    V::store(shift + v * V::kLanes, of.least);
    V::store(shift + kNr + v * V::kLanes, of.sum);
  }
  softmax_f16_4_sve512_exponentiate(args.s, args.kv, shift, sums);
  HalfPlaces places[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    const HalfReference of(b[v], half_sum(svld1_u32(svptrue_b32(), sums + at), args.kv), V::load(args.m + at),
                           V::load(args.l + at));
    V::store(args.m + at, of.m);
    V::store(args.l + at, of.l);
    V::store(args.alpha + at, of.alpha);
    places[v] = of.places;
  }
  H::ShiftBits by[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    by[i] = svuzp1_s16(svreinterpret_s16_s32(places[2 * i]), svreinterpret_s16_s32(places[2 * i + 1]));
  apply_reference(args, by);
}

void softmax_f16_sve512_weights(const SoftmaxArgs& args) noexcept {
  const Largest largest = largest_magnitudes(args);
  alignas(64) std::int32_t exponents[kNr];
  const svbool_t all = svptrue_b32();
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int at = v * V::kLanes;
    const svint32_t exponent = svmin_n_s32_x(
        all, svsub_n_s32_x(all, svasr_n_s32_x(all, svreinterpret_s32_f32(largest.of[v]), 23), 125), 126);
    const V::Reg own = svsel_f32(svcmpeq_n_f32(all, largest.of[v], 0.0f), V::set1(-__builtin_inff()),
                                 svcvt_f32_s32_x(all, exponent)),
                 old = V::load(args.m + at), m = V::max(own, old), shift = V::zero_if_minus_infinity(m);
    svst1_s32(all, exponents + at, svsubr_n_s32_x(all, svcvt_s32_f32_x(all, shift), -kFlushExponent));
    V::store(args.m + at, m);
    V::store(args.alpha + at, V::exp2(V::sub(old, shift)));
  }
  softmax_f16_4_sve512_round(args.s, args.kv, exponents);
}

void softmax_f16_sve512_exp2(const float* x, float* y, std::int64_t n) noexcept {
  exp2_array<V>(x, y, n);
}

}  // namespace kumiko::kernels
