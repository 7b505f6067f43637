// dot.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include <utility>

#include "kernels/dot/dot.h"
#include "kernels/pack/vector.h"
#include "kernels/simd/fetch.h"

namespace kumiko::kernels {
namespace {

/// Scores of R rows against kParts vectors of keys from j0 on. Keys are transposed lanes x lanes elements at
/// a time and used out of the registers.
template <class V, class T, int R, int kParts>
void score_keys(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, RowFetcher& ahead) {
  const float* q = args.q + row * args.q_stride;
  typename V::Reg sum[R][kParts];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) sum[r][p] = V::zero();
  }
  std::int64_t d = 0;
  if (args.kv - j0 >= kParts * V::kLanes) {
    for (; d + V::kLanes <= args.dim; d += V::kLanes) {
#pragma GCC unroll 16
      for (int p = 0; p < kParts; ++p) {
        const T* src = static_cast<const T*>(args.k) + (j0 + p * V::kLanes) * args.k_stride + d;
        ahead.fetch();
        typename V::Reg x[V::kLanes];
#pragma GCC unroll 16
        for (int i = 0; i < V::kLanes; i += 4) {
          const T* rows = src + i * args.k_stride;
          asm("" : "+r"(rows));  // Or g++ keeps 16 row addresses, most of them in vector registers.
          x[i] = V::load(rows);
          x[i + 1] = V::load(rows + args.k_stride);
          x[i + 2] = V::load(rows + 2 * args.k_stride);
          x[i + 3] = V::load(rows + 3 * args.k_stride);
        }
        V::transpose(x);
#pragma GCC unroll 16
        for (int i = 0; i < V::kLanes; ++i) {
#pragma GCC unroll 16
          for (int r = 0; r < R; ++r)
            sum[r][p] = V::fma(x[i], V::set1(q[r * args.q_stride + d + i]), sum[r][p]);
        }
      }
    }
  }
  for (; d < args.dim; d += V::kLanes) {  // the rim: fewer keys or elements than a block
    const std::int64_t dims = args.dim - d;
    const int count = dims < V::kLanes ? static_cast<int>(dims) : V::kLanes;
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) {
      const T* src = static_cast<const T*>(args.k) + (j0 + p * V::kLanes) * args.k_stride;
      typename V::Reg x[V::kLanes];
      load_transposed<V>(
          x, [&](int i) { return src + i * args.k_stride; }, args.kv - j0 - p * V::kLanes, d, dims);
      for (int i = 0; i < count; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          sum[r][p] = V::fma(x[i], V::set1(q[r * args.q_stride + d + i]), sum[r][p]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* out = args.scores + (row + r) * args.score_stride + j0;
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) V::store(out + p * V::kLanes, sum[r][p]);
  }
}

template <class V, class T, int R>
void score_rows(const DecodeBlockArgs& args, std::int64_t row) {
  // Chains side by side, to cover the FMA latency: at least 4, and 8 where the registers allow it.
  constexpr int kParts = R == 1 ? 4 : R <= 4 ? 2 : 1;
  constexpr std::int64_t kKeys = kParts * V::kLanes;
  const RowRange keys(static_cast<const T*>(args.k), args.k_stride, args.dim, args.kv);
  const RowRange values(static_cast<const T*>(args.v), args.v_stride, args.v_dim, args.kv);
  const std::int64_t blocks = (args.dim + V::kLanes - 1) / V::kLanes;
  RowFetcher ahead(keys, values, V::kLanes, blocks);
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kKeys) score_keys<V, T, R, kParts>(args, row, j0, ahead);
}

/// Scores of one row into probabilities, with the row's maximum, sum and output scaled to the new maximum.
template <class V>
void row_softmax(const DecodeBlockArgs& args, std::int64_t row) {
  float* s = args.scores + row * args.score_stride;
  const std::int32_t begin = args.begin[row], end = args.end[row];
  auto top = V::set1(-__builtin_inff());
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
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

/// O += P V and l += P over keys [j0, j1) for R rows that see all of them. N vectors of v_dim, the last of
/// `tail` elements if partial. (Unroll pragmas: without them g++ 12 keeps the sums in memory, 2.4x slower.)
template <class V, class T, int R, int N, bool kPartial>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                std::int64_t d, std::int64_t tail, RowFetcher& ahead) {
  typename V::Reg sum[R][N], weight[R];
  const float* p = args.scores + row * args.score_stride;
  float* o = args.o + row * args.o_stride + d;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    weight[r] = V::set1(args.l[row + r]);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[r][n] = V::load(o + r * args.o_stride + n * V::kLanes);
  }
  const T* v = static_cast<const T*>(args.v) + j0 * args.v_stride + d;
  for (std::int64_t j = j0; j < j1; ++j, v += args.v_stride) {
    typename V::Reg value[N];
    ahead.fetch();
#pragma GCC unroll 16
    for (int n = 0; n < N - 1; ++n) value[n] = V::load(v + n * V::kLanes);
    value[N - 1] = kPartial ? V::load_first(v + (N - 1) * V::kLanes, tail) : V::load(v + (N - 1) * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = V::set1(p[r * args.score_stride + j]);
      weight[r] = V::add(weight[r], x);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[r][n] = V::fma(x, value[n], sum[r][n]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    // The sum belongs to the row, not to one group of dims: the last group keeps it.
    if (d + N * V::kLanes >= args.v_dim) V::store_first(args.l + row + r, 1, weight[r]);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) V::store(o + r * args.o_stride + n * V::kLanes, sum[r][n]);
  }
}

template <class V, class T, int R>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                RowFetcher& ahead) {
  for (std::int64_t d = 0; d < args.v_dim; d += 4 * V::kLanes) {
    const std::int64_t left = args.v_dim - d;
    const std::int64_t vectors = (left + V::kLanes - 1) / V::kLanes;
    const std::int64_t tail = left - (vectors - 1) * V::kLanes;
    const bool partial = vectors <= 4 && tail != V::kLanes;
    switch ((vectors < 4 ? vectors : 4) * 2 + partial) {
      case 2:
        add_values<V, T, R, 1, false>(args, row, j0, j1, d, tail, ahead);
        break;
      case 3:
        add_values<V, T, R, 1, true>(args, row, j0, j1, d, tail, ahead);
        break;
      case 4:
        add_values<V, T, R, 2, false>(args, row, j0, j1, d, tail, ahead);
        break;
      case 5:
        add_values<V, T, R, 2, true>(args, row, j0, j1, d, tail, ahead);
        break;
      case 6:
        add_values<V, T, R, 3, false>(args, row, j0, j1, d, tail, ahead);
        break;
      case 7:
        add_values<V, T, R, 3, true>(args, row, j0, j1, d, tail, ahead);
        break;
      case 8:
        add_values<V, T, R, 4, false>(args, row, j0, j1, d, tail, ahead);
        break;
      default:
        add_values<V, T, R, 4, true>(args, row, j0, j1, d, tail, ahead);
    }
  }
}

/// Keys [begin, end) of a row, without those its mask hides.
template <class V, class T>
void add_unmasked_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t begin, std::int64_t end,
                         RowFetcher& ahead) {
  const ScoreRowArgs* terms = args.terms ? args.terms + row : nullptr;
  if (!terms || !terms->terms->has_mask) {
    if (begin < end) add_values<V, T, 1>(args, row, begin, end, ahead);
    return;
  }
  const auto visible = [&](std::int64_t j) { return terms->mask[j * terms->terms->mask_stride] != 0; };
  for (std::int64_t j = begin; j < end;) {
    std::int64_t stop = j;
    while (stop < end && visible(stop)) ++stop;
    if (j < stop) add_values<V, T, 1>(args, row, j, stop, ahead);
    j = stop + 1;
  }
}

/// The part of [j0, j1) that a row sees. Keys hidden from a row must not touch it: 0 * NaN would.
template <class V, class T, int R>
void add_visible_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                        RowFetcher& ahead) {
  bool all = !args.terms || !args.terms->terms->has_mask;
  for (int r = 0; r < R; ++r) all = all && args.begin[row + r] <= j0 && args.end[row + r] >= j1;
  if (all) return add_values<V, T, R>(args, row, j0, j1, ahead);
  for (int r = 0; r < R; ++r) {
    const std::int64_t begin = args.begin[row + r] > j0 ? args.begin[row + r] : j0;
    const std::int64_t end = args.end[row + r] < j1 ? args.end[row + r] : j1;
    add_unmasked_values<V, T>(args, row + r, begin, end, ahead);
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

template <class V, class T, int kGroup>
void add_all_values(const DecodeBlockArgs& args) {
  constexpr std::int64_t kRows = 32;  // stay in L1 while every group of rows and dims passes over them
  const RowRange values(static_cast<const T*>(args.v), args.v_stride, args.v_dim, args.kv);
  const RowRange next_keys(static_cast<const T*>(args.k) + args.kv * args.k_stride, args.k_stride, args.dim,
                           kNoEnd);
  const std::int64_t passes =
      ((args.v_dim + 4 * V::kLanes - 1) / (4 * V::kLanes)) * ((args.rows + kGroup - 1) / kGroup);
  RowFetcher ahead(values, next_keys, 1, passes);
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kRows) {
    const std::int64_t j1 = j0 + kRows < args.kv ? j0 + kRows : args.kv;
    for_row_groups<kGroup>(
        args.rows, [&]<int R>(std::int64_t row) { add_visible_values<V, T, R>(args, row, j0, j1, ahead); });
  }
}

template <class V, class T, int kValueGroup>
void decode_block(const DecodeBlockArgs& args) {
  for_row_groups<8>(args.rows, [&]<int R>(std::int64_t row) { score_rows<V, T, R>(args, row); });
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] >= args.end[row]) continue;
    if (args.terms) {
      ScoreRowArgs terms = args.terms[row];
      terms.s = args.scores + row * args.score_stride;
      terms.kv = args.kv;
      args.score_row(terms);
    }
    row_softmax<V>(args, row);
  }
  add_all_values<V, T, kValueGroup>(args);
}

}  // namespace
}  // namespace kumiko::kernels
