// SPDX-License-Identifier: Apache-2.0
// Scores of key_tiles.h for any vector type of kernels/simd.
#pragma once

#include "kernels/decode/rows.h"
#include "kernels/key_tiles/key_tiles.h"
#include "kernels/key_tiles/lines.h"

namespace kumiko::kernels {
namespace {

/// Tiles side by side: as many chains of multiply-adds as their latency needs, if the registers hold them;
/// but no more than 8 KiB of keys (D = 128), which have to be fetched before any is used.
template <class V, class T, int R>
constexpr int tiles_at_once() {
  constexpr int kBySpan = sizeof(T) == 4 && kTileKeys != V::kLanes ? 1 : 2, kVectors = kTileKeys / V::kLanes;
  return R * kVectors <= 4 ? kBySpan : 1;
}
/// Rows at once: 8 sums of 16 registers, or 8 to 16 of 32.
template <class V>
inline constexpr int kTileRowGroup = V::kLanes >= 16 ? 8 : 4;
/// Keys that all rows read before they go on: 16 KiB of f32 (D = 128) stay in L1.
constexpr std::int64_t kTileRun = 2 * kTileKeys;

/// Adds the products of the first `lines` lines of kTiles tiles to the sums of R rows.
template <class V, class T, int R, int kTiles, bool kFetch>
[[gnu::always_inline]] inline void multiply_lines(const T* const (&tiles)[kTiles], const float* q,
                                                  std::int64_t q_stride, std::int64_t lines,
                                                  RowFetcher& ahead,
                                                  typename V::Reg (&sum)[R][kTiles * kTileVectors<V>]) {
  constexpr int kVectors = kTileVectors<V>, kSteps = kLineSteps<V, T>;
#pragma GCC unroll 2
  for (std::int64_t i = 0; i < lines; ++i) {
    if constexpr (kFetch) ahead.fetch_lines<kTiles>();
    typename V::Reg x[kTiles * kVectors][kSteps];
#pragma GCC unroll 16
    for (int p = 0; p < kTiles * kVectors; ++p)
      load_line<V>(tiles[p / kVectors] + (i * kTileKeys + p % kVectors * V::kLanes) * kLineDims<T>, x[p]);
#pragma GCC unroll 16
    for (int s = 0; s < kSteps; ++s) {
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const auto factor = V::set1(q[r * q_stride + i * kSteps + s]);
#pragma GCC unroll 16
        for (int p = 0; p < kTiles * kVectors; ++p) sum[r][p] = multiply_add<V>(x[p][s], factor, sum[r][p]);
      }
    }
  }
}

/// Scores of R rows against kTiles tiles from key j on.
template <class V, class T, int R, int kTiles, bool kFetch>
void score_tiles(const DecodeScoresArgs& args, std::int64_t row, std::int64_t j, RowFetcher& fetcher) {
  constexpr int kVectors = kTileVectors<V>;
  RowFetcher ahead = fetcher;  // A copy can be in registers; behind a reference it would be in memory.
  const T* tiles[kTiles];
#pragma GCC unroll 16
  for (int t = 0; t < kTiles; ++t)
    tiles[t] = row_of<T>(args.k, j + t * kTileKeys < args.kv ? j + t * kTileKeys : j);
  typename V::Reg sum[R][kTiles * kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kTiles * kVectors; ++p) sum[r][p] = V::zero();
  }
  const float* q = args.q + row * args.q_stride;
  const std::int64_t whole = args.dim / kLineDims<T>;
  multiply_lines<V, T, R, kTiles, kFetch>(tiles, q, args.q_stride, whole, ahead, sum);
  if (args.dim % kLineDims<T> != 0) {  // The second dim of the last line is not used.
    if constexpr (kFetch) ahead.template fetch_lines<kTiles>();
#pragma GCC unroll 16
    for (int p = 0; p < kTiles * kVectors; ++p) {
      const auto x = load_half_line<V>(tiles[p / kVectors] +
                                       (whole * kTileKeys + p % kVectors * V::kLanes) * kLineDims<T>);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r)
        sum[r][p] = multiply_add<V>(x, V::set1(q[r * args.q_stride + whole * kLineSteps<V, T>]), sum[r][p]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* out = args.scores + (row + r) * args.score_stride + j;
#pragma GCC unroll 16
    for (int p = 0; p < kTiles * kVectors; ++p) {
      if (j + p / kVectors * kTileKeys < args.kv) V::store(out + p * V::kLanes, sum[r][p]);
    }
  }
  fetcher = ahead;
}

template <class V, class T>
void decode_tile_scores(const DecodeScoresArgs& args) {
  const std::int64_t tile = tile_lines(kElementOf<T>, args.dim) * kLine, tiles = sizeof(T) == 4 ? 1 : 2;
  const std::int64_t span = tiles * tile + 4096;
  RowFetcher ahead(args.rows_ahead, span > args.fetch.keys ? span : args.fetch.keys, 1, 1);
  for (std::int64_t run = 0; run < args.kv; run += kTileRun) {
    const std::int64_t end = run + kTileRun < args.kv ? run + kTileRun : args.kv;
    for_row_groups<kTileRowGroup<V>>(args.rows, [&]<int R>(std::int64_t row) {
      constexpr int kTiles = tiles_at_once<V, T, R>();
      for (std::int64_t j = run; j < end; j += kTiles * kTileKeys) {
        if (row == 0)
          score_tiles<V, T, R, kTiles, true>(args, row, j, ahead);
        else
          score_tiles<V, T, R, kTiles, false>(args, row, j, ahead);
      }
    });
  }
}

}  // namespace
}  // namespace kumiko::kernels
