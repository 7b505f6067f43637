// SPDX-License-Identifier: Apache-2.0
// softmax.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/softmax/softmax.h"

namespace kumiko::kernels {
namespace {

template <class V, int NV>
void mask_scores(const MaskArgs& args) {
  typename V::Int begin[NV], end[NV];
  typename V::Reg top[NV];
  for (int v = 0; v < NV; ++v) {
    begin[v] = V::load(args.begin + v * V::kLanes);
    end[v] = V::load(args.end + v * V::kLanes);
    top[v] = V::load(args.block_max + v * V::kLanes);
  }
  float* s = args.s;
  for (std::int64_t j = 0; j < args.kv; ++j, s += NV * V::kLanes) {
    for (int v = 0; v < NV; ++v) {
      const auto x = V::keep_visible(V::load(s + v * V::kLanes), begin[v], end[v],
                                     args.first + static_cast<std::int32_t>(j));
      V::store(s + v * V::kLanes, x);
      top[v] = V::max(x, top[v]);
    }
  }
  for (int v = 0; v < NV; ++v) V::store(args.block_max + v * V::kLanes, top[v]);
}

/// Raises m to the block's maxima. Gives what to subtract from the scores (`shift`) and l * alpha (`sum`).
template <class V, int NV>
void raise_maxima(const SoftmaxArgs& args, typename V::Reg (&shift)[NV], typename V::Reg (&sum)[NV]) {
  for (int v = 0; v < NV; ++v) {
    const int at = v * V::kLanes;
    const auto old = V::load(args.m + at);
    const auto m = V::max(V::load(args.block_max + at), old);
    shift[v] = V::zero_if_minus_infinity(m);
    const auto alpha = V::exp2(V::sub(old, shift[v]));
    sum[v] = V::mul(V::load(args.l + at), alpha);
    V::store(args.m + at, m);
    V::store(args.alpha + at, alpha);
  }
}

template <class V, int NV>
void probabilities(const SoftmaxArgs& args) {
  typename V::Reg shift[NV], sum[NV];
  raise_maxima<V, NV>(args, shift, sum);
  float* s = args.s;
  for (std::int64_t j = 0; j < args.kv; ++j, s += NV * V::kLanes) {
    for (int v = 0; v < NV; ++v) {
      const auto p = V::exp2(V::sub(V::load(s + v * V::kLanes), shift[v]));
      V::store(s + v * V::kLanes, p);
      sum[v] = V::add(sum[v], p);
    }
  }
  for (int v = 0; v < NV; ++v) V::store(args.l + v * V::kLanes, sum[v]);
}

template <class V>
void mask_scores_any(const MaskArgs& args) {
  switch (args.nr / V::kLanes) {
    case 1:
      return mask_scores<V, 1>(args);
    case 2:
      return mask_scores<V, 2>(args);
    default:
      return mask_scores<V, 3>(args);
  }
}

template <class V>
void probabilities_any(const SoftmaxArgs& args) {
  switch (args.nr / V::kLanes) {
    case 1:
      return probabilities<V, 1>(args);
    case 2:
      return probabilities<V, 2>(args);
    default:
      return probabilities<V, 3>(args);
  }
}

inline void weights_as_they_are(const SoftmaxArgs& args) {
  for (std::int64_t n = 0; n < args.nr; ++n) args.alpha[n] = 1.0f;
}

template <class V>
void exp2_array(const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += V::kLanes) V::store(y + i, V::exp2(V::load(x + i)));
}

}  // namespace
}  // namespace kumiko::kernels
