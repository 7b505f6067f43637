// SPDX-License-Identifier: Apache-2.0
// decode.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/decode/decode.h"
#include "kernels/decode/scores.h"
#include "kernels/decode/values.h"

namespace kumiko::kernels {
namespace {

/// For the time between scores and values, when memory would rest: what values are fetched further ahead.
template <class V, class T>
RowFetcher fetcher_between(const DecodeBlockArgs& args) {
  const RowRange values(static_cast<const T*>(args.v), args.v_stride, args.v_dim, args.kv);
  const std::int64_t rows = (args.fetch.values - args.fetch.keys) / values.width;
  return RowFetcher(values, values, args.fetch.keys, rows,
                    args.rows * ((args.kv + V::kLanes - 1) / V::kLanes), args.fetch.l2);
}

/// Scores of one row into probabilities, with the row's maximum, sum and output scaled to the new maximum.
template <class V>
void row_softmax(const DecodeBlockArgs& args, std::int64_t row, RowFetcher& ahead) {
  float* s = args.scores + row * args.score_stride;
  const std::int32_t begin = args.begin[row], end = args.end[row];
  auto top = V::set1(-__builtin_inff());
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    ahead.fetch();
    const auto x = V::keep_between(V::load(s + j), begin, end, static_cast<std::int32_t>(j));
    V::store(s + j, x);
    top = V::max(x, top);
  }
  const auto old = V::set1(args.m[row]);
  const auto m = V::max(V::set1(V::reduce_max(top)), old);
  const auto shift = V::zero_if_minus_infinity(m);
  const auto alpha = V::exp2(V::sub(old, shift));
  V::store_first(args.m + row, 1, m);
  V::store_first(args.l + row, 1, V::mul(V::set1(args.l[row]), alpha));
  float* o = args.o + row * args.o_stride;
  for (std::int64_t d = 0; d < args.v_dim; d += V::kLanes) V::store(o + d, V::mul(V::load(o + d), alpha));
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes)
    V::store(s + j, V::exp2(V::sub(V::load(s + j), shift)));
}

/// kRows rows and kVectors vectors of v_dim are summed at a time.
template <class V, class T, int kRows, int kVectors>
void decode_block(const DecodeBlockArgs& args) {
  for_row_groups<8>(args.rows, [&]<int R>(std::int64_t row) { score_rows<V, T, R>(args, row); });
  RowFetcher between = fetcher_between<V, T>(args);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] >= args.end[row]) continue;
    if (args.terms) {
      ScoreRowArgs terms = args.terms[row];
      terms.s = args.scores + row * args.score_stride;
      terms.kv = args.kv;
      args.score_row(terms);
    }
    row_softmax<V>(args, row, between);
  }
  add_all_values<V, T, kRows, kVectors>(args);
}

}  // namespace
}  // namespace kumiko::kernels
