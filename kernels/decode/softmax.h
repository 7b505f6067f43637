// SPDX-License-Identifier: Apache-2.0
// Softmax of decode.h for any vector type of kernels/simd: one row of scores in the lanes at a time.
#pragma once

#include "kernels/decode/rows.h"
#include "kernels/pack/elements.h"

namespace kumiko::kernels {
namespace {

/// Whether the product is of bf16 pairs: scores are not scaled yet, and P is bf16.
template <class V>
inline constexpr bool kPairs = elements_per_lane<V>() > 1;

/// Fetches during the softmax, when memory would be idle: the rows by which values are fetched further ahead
/// than keys.
template <class V>
RowFetcher fetcher_between(const DecodeSoftmaxArgs& args) {
  const std::int64_t rows = (args.fetch.values - args.fetch.keys) / args.rows_ahead.begin->width;
  return RowFetcher(args.rows_ahead, args.fetch.keys, rows,
                    args.rows * ((args.kv + V::kLanes - 1) / V::kLanes));
}

/// Hides the scores outside [begin, end). Returns the largest of the others.
template <class V>
typename V::Reg hide(float* s, std::int64_t kv, std::int32_t begin, std::int32_t end, RowFetcher& ahead) {
  auto top = V::set1(-__builtin_inff());
  for (std::int64_t j = 0; j < kv; j += V::kLanes) {
    ahead.fetch();
    const auto x = V::keep_between(V::load(s + j), begin, end, static_cast<std::int32_t>(j));
    V::store(s + j, x);
    top = V::max(x, top);
  }
  return V::set1(V::reduce_max(top));
}

/// Scores into probabilities, in place.
template <class V>
void exponentiate(float* s, std::int64_t kv, typename V::Reg shift, typename V::Reg scale) {
  if constexpr (kPairs<V>) {
    const auto minus_shift = V::sub(V::zero(), shift);
    std::uint16_t* p = reinterpret_cast<std::uint16_t*>(s);
    for (std::int64_t j = 0; j < kv; j += V::kLanes)
      V::store_bf16(p + j, V::exp2_short(V::fma(V::load(s + j), scale, minus_shift)));
  } else {
    for (std::int64_t j = 0; j < kv; j += V::kLanes) V::store(s + j, V::exp2(V::sub(V::load(s + j), shift)));
  }
}

/// The probabilities of one row, with its maximum, and its sum and output scaled to the new maximum.
template <class V>
void row_softmax(const DecodeSoftmaxArgs& args, std::int64_t row, RowFetcher& ahead) {
  float* s = args.scores + row * args.score_stride;
  const auto scale = V::set1(args.scale);
  auto top = hide<V>(s, args.kv, args.begin[row], args.end[row], ahead);
  if constexpr (kPairs<V>) top = V::mul(top, scale);
  const auto old = V::set1(args.m[row]);
  const auto m = V::max(top, old);
  const auto shift = V::zero_if_minus_infinity(m);
  const auto alpha = V::exp2(V::sub(old, shift));
  V::store_first(args.m + row, 1, m);
  V::store_first(args.l + row, 1, V::mul(V::set1(args.l[row]), alpha));
  float* o = args.o + row * args.o_stride;
  for (std::int64_t d = 0; d < args.v_dim; d += V::kLanes) V::store(o + d, V::mul(V::load(o + d), alpha));
  exponentiate<V>(s, args.kv, shift, scale);
}

template <class V>
void decode_softmax(const DecodeSoftmaxArgs& args) {
  RowFetcher between = fetcher_between<V>(args);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] < args.end[row]) row_softmax<V>(args, row, between);
  }
}

}  // namespace
}  // namespace kumiko::kernels
