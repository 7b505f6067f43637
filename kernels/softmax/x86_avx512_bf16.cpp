// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/avx512_bf16.h"
#include "kernels/softmax/vector.h"

namespace kumiko::kernels {
namespace {

using V = Avx512Bf16;

template <int NV>
void probability_pairs(const SoftmaxArgs& args) {
  V::Reg minus_shift[NV], sum[NV];
  const auto scale = V::set1(args.scale);
  for (int v = 0; v < NV; ++v) {
    const int at = v * V::kLanes;
    const auto old = V::load(args.m + at);
    const auto m = V::max(V::mul(V::load(args.block_max + at), scale), old);
    const auto shift = V::zero_if_minus_infinity(m);
    const auto alpha = V::exp2(V::sub(old, shift));
    minus_shift[v] = V::sub(V::zero(), shift);
    sum[v] = V::mul(V::load(args.l + at), alpha);
    V::store(args.m + at, m);
    V::store(args.alpha + at, alpha);
  }
  const auto ones = V::pair_of_ones();
  constexpr int kNr = NV * V::kLanes;
  const float* s = args.s;
  float* p = args.s;
  std::int64_t j = 0;
  for (; j + 2 <= args.kv; j += 2, s += 2 * kNr, p += kNr) {
    for (int v = 0; v < NV; ++v) {
      const auto low = V::exp2_short(V::fma(V::load(s + v * V::kLanes), scale, minus_shift[v]));
      const auto high = V::exp2_short(V::fma(V::load(s + kNr + v * V::kLanes), scale, minus_shift[v]));
      const auto pair = V::pair(low, high);
      V::store(p + v * V::kLanes, pair);
      sum[v] = V::product(pair, ones, sum[v]);
    }
  }
  for (int v = 0; v < NV && j < args.kv; ++v) {
    const auto low = V::exp2_short(V::fma(V::load(s + v * V::kLanes), scale, minus_shift[v]));
    const auto pair = V::pair(low, V::zero());
    V::store(p + v * V::kLanes, pair);
    sum[v] = V::product(pair, ones, sum[v]);
  }
  for (int v = 0; v < NV; ++v) V::store(args.l + v * V::kLanes, sum[v]);
}

}  // namespace

void softmax_bf16_avx512_bf16_mask_scores(const MaskArgs& args) noexcept {
  mask_scores_any<V>(args);
}
void softmax_bf16_avx512_bf16_probabilities(const SoftmaxArgs& args) noexcept {
  switch (args.nr / V::kLanes) {
    case 1:
      return probability_pairs<1>(args);
    case 2:
      return probability_pairs<2>(args);
    default:
      return probability_pairs<3>(args);
  }
}
void softmax_bf16_avx512_bf16_weights(const SoftmaxArgs& args) noexcept {
  weights_as_they_are(args);
}
void softmax_bf16_avx512_bf16_exp2(const float* x, float* y, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; i += V::kLanes) V::store(y + i, V::exp2_short(V::load(x + i)));
}

}  // namespace kumiko::kernels
