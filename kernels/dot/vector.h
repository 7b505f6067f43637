// dot.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include <utility>

#include "kernels/dot/dot.h"
#include "kernels/pack/vector.h"
#include "kernels/simd/fetch.h"

namespace kumiko::kernels {
namespace {

/// c + a b of every element of a lane.
template <class V>
inline typename V::Reg multiply_add(typename V::Reg a, typename V::Reg b, typename V::Reg c) {
  if constexpr (elements_per_lane<V>() == 1) {
    return V::fma(a, b, c);
  } else {
    return V::product(a, b, c);
  }
}

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
    for (; d + kElements<V> <= args.dim; d += kElements<V>) {
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
        // Four rows at a time, each by an address of its own: g++ would keep an offset for every factor, on
        // the stack.
#pragma GCC unroll 16
        for (int first = 0; first < R; first += 4) {
          constexpr int kRows = R < 4 ? R : 4;
          const float* factors[kRows];
#pragma GCC unroll 16
          for (int r = 0; r < kRows; ++r) {
            factors[r] = q + (first + r < R ? first + r : 0) * args.q_stride + lanes_of<V>(d);
            asm("" : "+r"(factors[r]));
          }
#pragma GCC unroll 16
          for (int i = 0; i < V::kLanes; ++i) {
#pragma GCC unroll 16
            for (int r = 0; r < kRows; ++r) {
              if (first + r < R)
                sum[first + r][p] = multiply_add<V>(x[i], V::set1(factors[r][i]), sum[first + r][p]);
            }
          }
        }
      }
    }
  }
  for (; d < args.dim; d += kElements<V>) {  // the rim: fewer keys or elements than a block
    const std::int64_t dims = args.dim - d;
    const int count = dims < kElements<V> ? static_cast<int>(lanes_of<V>(dims)) : V::kLanes;
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) {
      const T* src = static_cast<const T*>(args.k) + (j0 + p * V::kLanes) * args.k_stride;
      typename V::Reg x[V::kLanes];
      load_transposed<V>(
          x, [&](int i) { return src + i * args.k_stride; }, args.kv - j0 - p * V::kLanes, d, dims);
      for (int i = 0; i < count; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          sum[r][p] = multiply_add<V>(x[i], V::set1(q[r * args.q_stride + lanes_of<V>(d) + i]), sum[r][p]);
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
  // Chains side by side, to cover the FMA latency: at least 4, and 8 where the registers allow it; a single
  // row has 2 on AVX-512, or its keys would be more than what is fetched ahead (D = 128: 64 keys are 32 KiB,
  // 0.67 of the read bandwidth; 32 keys 0.90).
  constexpr int kParts = R == 1 ? (V::kLanes > 8 ? 2 : 4) : R <= 4 ? 2 : 1;
  constexpr std::int64_t kKeys = kParts * V::kLanes;
  const RowRange keys(static_cast<const T*>(args.k), args.k_stride, args.dim, args.kv);
  const RowRange values(static_cast<const T*>(args.v), args.v_stride, args.v_dim, args.kv);
  const std::int64_t blocks = (args.dim + kElements<V> - 1) / kElements<V>;
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

/// c + a b from registers. Left to itself g++ folds the load of b into every use: 10 loads for 8 products on
/// AVX2, 5.8 cycles a key instead of 4.4 (Zen 5).
template <class V>
inline typename V::Reg multiply_add_loaded(typename V::Reg a, typename V::Reg b, typename V::Reg c) {
  if constexpr (requires { V::fma_registers(a, b, c); }) {
    return V::fma_registers(a, b, c);
  } else {
    return V::fma(a, b, c);
  }
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
    for (int n = 0; n < N - 1; ++n) value[n] = V::load(v + n * V::kLanes);
    value[N - 1] = kPartial ? V::load_first(v + (N - 1) * V::kLanes, tail) : V::load(v + (N - 1) * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = V::set1(p[r * args.score_stride + j]);
      if (kLast) weight[r] = V::add(weight[r], x);
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) sum[r][n] = multiply_add_loaded<V>(x, value[n], sum[r][n]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (kLast) V::store_first(args.l + row + r, 1, weight[r]);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) V::store(o + r * args.o_stride + n * V::kLanes, sum[r][n]);
  }
}

/// What is left of v_dim, N vectors or fewer.
template <class V, class T, int R, int N>
void add_last_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                     std::int64_t d, RowFetcher& ahead) {
  const std::int64_t tail = args.v_dim - d - (N - 1) * V::kLanes;
  if constexpr (N > 1) {
    if (tail <= 0) return add_last_values<V, T, R, N - 1>(args, row, j0, j1, d, ahead);
  }
  if (tail < V::kLanes) return add_values<V, T, R, N, true, true>(args, row, j0, j1, d, tail, ahead);
  add_values<V, T, R, N, false, true>(args, row, j0, j1, d, tail, ahead);
}

constexpr int kValueVectors = 4;  // of v_dim a pass

template <class V, class T, int R>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                RowFetcher& ahead) {
  constexpr std::int64_t kDims = kValueVectors * V::kLanes;
  std::int64_t d = 0;
  for (; d + kDims < args.v_dim; d += kDims)
    add_values<V, T, R, kValueVectors, false, false>(args, row, j0, j1, d, V::kLanes, ahead);
  add_last_values<V, T, R, kValueVectors>(args, row, j0, j1, d, ahead);
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
  const std::int64_t passes = ((args.v_dim + kValueVectors * V::kLanes - 1) / (kValueVectors * V::kLanes)) *
                              ((args.rows + kGroup - 1) / kGroup);
  RowFetcher ahead(values, next_keys, 1, passes);
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kRows) {
    const std::int64_t j1 = j0 + kRows < args.kv ? j0 + kRows : args.kv;
    for_row_groups<kGroup>(
        args.rows, [&]<int R>(std::int64_t row) { add_visible_values<V, T, R>(args, row, j0, j1, ahead); });
  }
}

template <class V, class T, int kValueRows>
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
  add_all_values<V, T, kValueRows>(args);
}

}  // namespace
}  // namespace kumiko::kernels
