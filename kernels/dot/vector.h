// dot.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/dot/dot.h"
#include "kernels/pack/vector.h"

namespace kumiko::kernels {
namespace {

/// How many keys ahead rows are fetched. The hardware prefetchers alone reach a third of this (Zen 5, D =
/// 128, one thread: 0 rows ahead 7 GB/s, 8 to 16: 16, 32: 20-23, 64: 19, 128: 18; machine shared, read loop
/// 39 idle): they do not follow 16 rows at once.
constexpr std::int64_t kRowsAhead = 32;

/// K[j0 .. j0 + 32) transposed into tile [dim][32].
template <class V, int kTileKeys>
void transpose_keys(const DecodeBlockArgs& args, std::int64_t j0) {
  for (std::int64_t d = 0; d < args.dim; d += V::kLanes) {
    const std::int64_t dims = args.dim - d;
    const int count = dims < V::kLanes ? static_cast<int>(dims) : V::kLanes;
    for (int part = 0; part < kTileKeys; part += V::kLanes) {
      const float* src = args.k + (j0 + part) * args.k_stride;
      typename V::Reg x[V::kLanes];
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i)
        __builtin_prefetch(src + (i + kRowsAhead) * args.k_stride + d, 0, 3);
      load_transposed<V>(
          x, [&](int i) { return src + i * args.k_stride; }, args.kv - j0 - part, d, dims);
      float* dst = args.tile + d * kTileKeys + part;
      for (int i = 0; i < count; ++i) V::store(dst + i * kTileKeys, x[i]);
    }
  }
}

/// Scores of R rows against the tile's keys. R * kTileKeys / lanes chains run side by side to cover the FMA
/// latency.
template <class V, int kTileKeys, int R>
void tile_scores(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0) {
  constexpr int kParts = kTileKeys / V::kLanes;
  const float* q = args.q + row * args.q_stride;
  typename V::Reg sum[R][kParts];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) sum[r][p] = V::zero();
  }
  const float* tile = args.tile;
  for (std::int64_t d = 0; d < args.dim; ++d, tile += kTileKeys) {
    typename V::Reg key[kParts];
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) key[p] = V::load(tile + p * V::kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const auto x = V::set1(q[r * args.q_stride + d]);
#pragma GCC unroll 16
      for (int p = 0; p < kParts; ++p) sum[r][p] = V::fma(key[p], x, sum[r][p]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* out = args.scores + (row + r) * args.score_stride + j0;
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) V::store(out + p * V::kLanes, sum[r][p]);
  }
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
template <class V, int R, int N, bool kPartial>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                std::int64_t d, std::int64_t tail) {
  typename V::Reg sum[R][N], weight[R];
  const float* p = args.scores + row * args.score_stride;
  float* o = args.o + row * args.o_stride + d;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    weight[r] = V::set1(args.l[row + r]);
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) sum[r][n] = V::load(o + r * args.o_stride + n * V::kLanes);
  }
  const float* v = args.v + j0 * args.v_stride + d;
  for (std::int64_t j = j0; j < j1; ++j, v += args.v_stride) {
    typename V::Reg value[N];
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) __builtin_prefetch(v + kRowsAhead * args.v_stride + n * V::kLanes, 0, 3);
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

template <class V, int R>
void add_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1) {
  for (std::int64_t d = 0; d < args.v_dim; d += 4 * V::kLanes) {
    const std::int64_t left = args.v_dim - d;
    const std::int64_t vectors = (left + V::kLanes - 1) / V::kLanes;
    const std::int64_t tail = left - (vectors - 1) * V::kLanes;
    const bool partial = vectors <= 4 && tail != V::kLanes;
    switch ((vectors < 4 ? vectors : 4) * 2 + partial) {
      case 2:
        add_values<V, R, 1, false>(args, row, j0, j1, d, tail);
        break;
      case 3:
        add_values<V, R, 1, true>(args, row, j0, j1, d, tail);
        break;
      case 4:
        add_values<V, R, 2, false>(args, row, j0, j1, d, tail);
        break;
      case 5:
        add_values<V, R, 2, true>(args, row, j0, j1, d, tail);
        break;
      case 6:
        add_values<V, R, 3, false>(args, row, j0, j1, d, tail);
        break;
      case 7:
        add_values<V, R, 3, true>(args, row, j0, j1, d, tail);
        break;
      case 8:
        add_values<V, R, 4, false>(args, row, j0, j1, d, tail);
        break;
      default:
        add_values<V, R, 4, true>(args, row, j0, j1, d, tail);
    }
  }
}

/// The part of [j0, j1) that a row sees. Keys hidden from a row must not touch it: 0 * NaN would.
template <class V, int R>
void add_visible_values(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1) {
  bool all = true;
  for (int r = 0; r < R; ++r) all = all && args.begin[row + r] <= j0 && args.end[row + r] >= j1;
  if (all) return add_values<V, R>(args, row, j0, j1);
  for (int r = 0; r < R; ++r) {
    const std::int64_t begin = args.begin[row + r] > j0 ? args.begin[row + r] : j0;
    const std::int64_t end = args.end[row + r] < j1 ? args.end[row + r] : j1;
    if (begin < end) add_values<V, 1>(args, row + r, begin, end);
  }
}

/// Rows in groups of kGroup, then what is left.
template <int kGroup, class Body>
void for_row_groups(std::int64_t rows, Body body) {
  std::int64_t row = 0;
  for (; row + kGroup <= rows; row += kGroup) body.template operator()<kGroup>(row);
  if constexpr (kGroup > 3) {
    if (rows - row == 3) body.template operator()<3>(row);
  }
  if constexpr (kGroup > 2) {
    if (rows - row == 2) body.template operator()<2>(row);
  }
  if (rows - row == 1) body.template operator()<1>(row);
}

template <class V, int kTileKeys, int kScoreGroup, int kValueGroup>
void decode_block(const DecodeBlockArgs& args) {
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kTileKeys) {
    transpose_keys<V, kTileKeys>(args, j0);
    for_row_groups<kScoreGroup>(
        args.rows, [&]<int R>(std::int64_t row) { tile_scores<V, kTileKeys, R>(args, row, j0); });
  }
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] < args.end[row]) row_softmax<V>(args, row);
  }
  constexpr std::int64_t kValueRows = 32;  // stays in L1 while every group of rows and dims passes over it
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kValueRows) {
    const std::int64_t j1 = j0 + kValueRows < args.kv ? j0 + kValueRows : args.kv;
    for_row_groups<kValueGroup>(
        args.rows, [&]<int R>(std::int64_t row) { add_visible_values<V, R>(args, row, j0, j1); });
  }
}

}  // namespace
}  // namespace kumiko::kernels
