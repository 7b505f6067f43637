// dot.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include <utility>

#include "kernels/dot/dot.h"
#include "kernels/dot/scores.h"

namespace kumiko::kernels {
namespace {

template <class V, class T>
RowFetcher fetcher_between(const DecodeBlockArgs& args) {
  const RowRange values(static_cast<const T*>(args.v), args.v_stride, args.v_dim, args.kv);
  const RowRange next_keys(static_cast<const T*>(args.k) + args.kv * args.k_stride, args.k_stride, args.dim,
                           kNoEnd);
  const std::int64_t rows = (kValuesAhead - kKeysAhead) / values.width;
  return RowFetcher(values, next_keys, kKeysAhead, rows, args.rows * ((args.kv + V::kLanes - 1) / V::kLanes));
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

/// O += P V over keys [j0, j1) for R rows that see all of them. N vectors of v_dim, the last of `tail`
/// elements if partial. kLast: the last group of dims, which also takes l += P. (Unroll pragmas: without them
/// g++ 12 keeps the sums in memory, 2.4x slower.)
template <class V, class T, int R, int N, bool kPartial, bool kLast>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                std::int64_t d, std::int64_t tail, RowFetcher& ahead) {
  typename V::Reg sum[R][N], weight[R];
  const float* p = args.scores + row * args.score_stride;
  float* o = args.o + row * args.o_stride + d;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (kLast) weight[r] = V::set1(args.l[row + r]);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[r][n] = V::load(o + r * args.o_stride + n * V::kLanes);
  }
  const T* v = static_cast<const T*>(args.v) + j0 * args.v_stride + d;
  for (std::int64_t j = j0; j < j1; ++j, v += args.v_stride) {
    typename V::Reg value[N];
    ahead.fetch();
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const T* at = v + n * V::kLanes;
      value[n] = in_register<V>(kPartial && n == N - 1 ? V::load_first(at, tail) : V::load(at));
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = V::set1(p[r * args.score_stride + j]);
      if (kLast) weight[r] = V::add(weight[r], x);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[r][n] = V::fma(x, value[n], sum[r][n]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (kLast) V::store_first(args.l + row + r, 1, weight[r]);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) V::store(o + r * args.o_stride + n * V::kLanes, sum[r][n]);
  }
}

/// Vectors of v_dim taken in passes of kMost or fewer, as many in one as in another: few are too few chains.
template <class V, int kMost>
struct Passes {
  std::int64_t vectors, count;
  explicit Passes(std::int64_t v_dim)
      : vectors((v_dim + V::kLanes - 1) / V::kLanes), count((vectors + kMost - 1) / kMost) {}
  std::int64_t begin(std::int64_t pass) const { return pass * vectors / count; }
};

/// Pass of vectors [first, last).
template <class V, class T, int R, int kMost>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                std::int64_t first, std::int64_t last, RowFetcher& ahead) {
  const std::int64_t d = first * V::kLanes, tail = args.v_dim - (last - 1) * V::kLanes;
  const auto add = [&]<int N>(std::integral_constant<int, N>) {
    if (tail > V::kLanes) {
      add_values<V, T, R, N, false, false>(args, row, j0, j1, d, tail, ahead);
    } else if (tail == V::kLanes) {
      add_values<V, T, R, N, false, true>(args, row, j0, j1, d, tail, ahead);
    } else {
      add_values<V, T, R, N, true, true>(args, row, j0, j1, d, tail, ahead);
    }
  };
  const auto pick = [&]<int... kLess>(std::integer_sequence<int, kLess...>) {
    ((last - first == kLess + 1 && (add(std::integral_constant<int, kLess + 1>{}), true)) || ...);
  };
  pick(std::make_integer_sequence<int, kMost>{});
}

/// Keys [begin, end) of a row, without those its mask hides.
template <class V, class T, int kMost>
void add_unmasked_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t begin, std::int64_t end,
                         std::int64_t first, std::int64_t last, RowFetcher& ahead) {
  const ScoreRowArgs* terms = args.terms ? args.terms + row : nullptr;
  if (!terms || !terms->terms->has_mask) {
    if (begin < end) add_values<V, T, 1, kMost>(args, row, begin, end, first, last, ahead);
    return;
  }
  const auto visible = [&](std::int64_t j) { return terms->mask[j * terms->terms->mask_stride] != 0; };
  for (std::int64_t j = begin; j < end;) {
    std::int64_t stop = j;
    while (stop < end && visible(stop)) ++stop;
    if (j < stop) add_values<V, T, 1, kMost>(args, row, j, stop, first, last, ahead);
    j = stop + 1;
  }
}

/// The part of [j0, j1) that a row sees. Keys hidden from a row must not touch it: 0 * NaN would.
template <class V, class T, int R, int kMost>
void add_visible_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                        std::int64_t first, std::int64_t last, RowFetcher& ahead) {
  bool all = !args.terms || !args.terms->terms->has_mask;
  for (int r = 0; r < R; ++r) all = all && args.begin[row + r] <= j0 && args.end[row + r] >= j1;
  if (all) return add_values<V, T, R, kMost>(args, row, j0, j1, first, last, ahead);
  for (int r = 0; r < R; ++r) {
    const std::int64_t begin = args.begin[row + r] > j0 ? args.begin[row + r] : j0;
    const std::int64_t end = args.end[row + r] < j1 ? args.end[row + r] : j1;
    add_unmasked_values<V, T, kMost>(args, row + r, begin, end, first, last, ahead);
  }
}

/// Rows in groups of kGroup, then one group of what is left.
template <int kGroup, class Body>
void for_row_groups(std::int64_t rows, Body body) {
  std::int64_t row = 0;
  for (; row + kGroup <= rows; row += kGroup) body.template operator()<kGroup>(row);
  const auto rest = [&]<int... kLess>(std::integer_sequence<int, kLess...>) {
    return ((rows - row == kLess + 1 && (body.template operator()<kLess + 1>(row), true)) || ...);
  };
  rest(std::make_integer_sequence<int, kGroup - 1>{});
}

/// kGroup rows by kMost vectors of v_dim at a time.
template <class V, class T, int kGroup, int kMost>
void add_all_values(const DecodeBlockArgs& args) {
  // Stay in L1 while every pass goes over them.
  constexpr std::int64_t kRows = 32;
  const RowRange values(static_cast<const T*>(args.v), args.v_stride, args.v_dim, args.kv);
  const RowRange next_keys(static_cast<const T*>(args.k) + args.kv * args.k_stride, args.k_stride, args.dim,
                           kNoEnd);
  const Passes<V, kMost> passes(args.v_dim);
  RowFetcher ahead(values, next_keys, kValuesAhead, 1, passes.count * ((args.rows + kGroup - 1) / kGroup));
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kRows) {
    const std::int64_t j1 = j0 + kRows < args.kv ? j0 + kRows : args.kv;
    for (std::int64_t pass = 0; pass < passes.count; ++pass) {
      for_row_groups<kGroup>(args.rows, [&]<int R>(std::int64_t row) {
        add_visible_values<V, T, R, kMost>(args, row, j0, j1, passes.begin(pass), passes.begin(pass + 1), ahead);
      });
    }
  }
}

template <class V, class T, int kValueRows, int kValueVectors>
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
  add_all_values<V, T, kValueRows, kValueVectors>(args);
}

}  // namespace
}  // namespace kumiko::kernels
