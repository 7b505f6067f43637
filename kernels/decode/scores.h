// SPDX-License-Identifier: Apache-2.0
// Scores of decode.h for any vector type of kernels/simd.
#pragma once

#include <utility>

#include "kernels/decode/rows.h"
#include "kernels/decode/transpose.h"

namespace kumiko::kernels {
namespace {

/// Adds the products of steps [kFirst, kLast) of a tile to the sums of R rows.
template <class V, class Block, int R, int kParts, int kFirst, int kLast>
[[gnu::always_inline]] inline void multiply_keys(typename V::Reg (&sum)[R][kParts],
                                                 const typename Block::Tile* tile, const float* q,
                                                 std::int64_t q_stride) {
  // From q and q_stride alone g++ 12 computes an offset for each element, keeps the offsets on the stack and
  // loads one for every factor. A pointer for each row takes less time (16-bit keys from memory, AVX2, Zen
  // 3): 4 rows 0.93 to 0.98, 8 rows 0.85 to 0.90; AVX-512 has a third fewer stack accesses in these loops.
  const float* row[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    row[r] = q + r * q_stride;
  }
#pragma GCC unroll 16
  for (int i = kFirst; i < kLast; ++i) {
    typename V::Reg x[kParts];
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) x[p] = in_register<V>(Block::template load<kParts>(tile, i, p));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      auto factor = V::set1(row[r][i]);
      if constexpr (kParts > 1) factor = in_register<V>(factor);
#pragma GCC unroll 16
      for (int p = 0; p < kParts; ++p) sum[r][p] = multiply_add<V>(x[p], factor, sum[r][p]);
    }
  }
}

/// Whole cache lines in a piece of a block.
template <class V, class T>
inline constexpr int kPieceLines = static_cast<int>(V::kLanes* Transpose<V, T>::kDims * sizeof(T)) /
                                   (kLine * Transpose<V, T>::kPieces);

/// Transposes kParts blocks at `keys`, from dim d on, into `next` (kTurn) and multiplies those in `now`
/// (kMultiply): a piece of the transposition, then a slice of the products, and so on.
template <class V, class T, int R, int kParts, bool kTurn, bool kMultiply>
[[gnu::always_inline]] inline void turn_and_multiply(const T* const (&keys)[kParts], std::int64_t d,
                                                     std::int64_t stride,
                                                     typename Transpose<V, T>::Tile* next, RowFetcher& ahead,
                                                     typename V::Reg (&sum)[R][kParts],
                                                     const typename Transpose<V, T>::Tile* now,
                                                     const float* q, std::int64_t q_stride) {
  using Block = Transpose<V, T>;
  constexpr int kSlices = kParts * Block::kPieces;
  Block block;
  const auto slice = [&]<int k>(std::integral_constant<int, k>) __attribute__((always_inline)) {
    constexpr int kPart = k / Block::kPieces;
    if constexpr (kTurn) {
      ahead.fetch_lines<kPieceLines<V, T>>();
      block.template piece<k % Block::kPieces>(keys[kPart] + d, stride, next + kPart * Block::kRow,
                                               kParts * Block::kRow);
    }
    if constexpr (kMultiply) {
      multiply_keys<V, Block, R, kParts, k * Block::kSteps / kSlices, (k + 1) * Block::kSteps / kSlices>(
          sum, now, q, q_stride);
    }
  };
  [&]<int... k>(std::integer_sequence<int, k...>) __attribute__((always_inline)) {
    (slice(std::integral_constant<int, k>{}), ...);
  }
  (std::make_integer_sequence<int, kSlices>{});
}

/// Vectors of keys side by side: as many chains of FMAs as the registers hold, so that one's latency is spent
/// on the others; but no more than 8 KiB of keys (D = 128), because all their rows are read at once, and must
/// have been fetched before (FetchDistances). With 16 KiB there would be enough chains of f32 and of bf16
/// pairs (AVX-512, 4 rows, in L2: f32 2.2 us for 256 keys instead of 2.7), but from memory decode takes 1.23
/// to 1.36 of the time (Zen 5). With up to 8 rows, bf16 pairs have two vectors: 8 loaded factors are then
/// used in 16 products instead of 8 (Zen 4, 8 rows, 256 keys, in L2: 3.4 us instead of 4.3; bf16 with f32
/// products no faster, f16 1.2 of the time).
template <class V, class T, int R>
constexpr int key_vectors() {
  const int by_span = static_cast<int>(8192 / (128 * sizeof(T)) / V::kLanes);
  const int by_registers = R == 1 ? 4 : R <= 4 || kElements<V> > V::kLanes ? 2 : 1;
  const int parts = by_span < by_registers ? by_span : by_registers;
  return parts < 1 ? 1 : parts;
}

/// Queries as rows in memory.
struct QueryRows {
  const float* q;
  std::int64_t stride;
  QueryRows(const DecodeScoresArgs& args, std::int64_t row)
      : q(args.q + row * args.q_stride), stride(args.q_stride) {}
};

/// Shape of a block of V::kLanes keys that Transpose transposes.
template <class V, class T>
struct TransposedBlock {
  static constexpr std::int64_t kDims = Transpose<V, T>::kDims;
  static constexpr int kSteps = Transpose<V, T>::kSteps;                       ///< of the query
  static constexpr int kLines = Transpose<V, T>::kPieces * kPieceLines<V, T>;  ///< that it fetches
};

/// Adds the products of the first `dims` elements of kParts blocks of keys, whole blocks, to the sums of R
/// rows, which are 0 before.
template <class V, class T>
struct TileProducts : TransposedBlock<V, T> {
  template <int R>
  using Queries = QueryRows;
  template <int R>
  static constexpr int kPartsOf = key_vectors<V, T, R>();

  template <int R, int kParts>
  [[gnu::always_inline]] static void add(const T* const (&keys)[kParts], std::int64_t stride,
                                         std::int64_t dims, const QueryRows& queries,
                                         typename V::Reg (&sum)[R][kParts], RowFetcher& ahead) {
    using Block = Transpose<V, T>;
    const float* q = queries.q;
    const std::int64_t q_stride = queries.stride;
    alignas(64) typename Block::Tile tiles[2][Block::kRows * kParts * Block::kRow];
    typename Block::Tile *now = tiles[0], *next = tiles[1];
    turn_and_multiply<V, T, R, kParts, true, false>(keys, 0, stride, now, ahead, sum, now, q, 0);
    for (std::int64_t d = Block::kDims; d < dims; d += Block::kDims) {
      turn_and_multiply<V, T, R, kParts, true, true>(keys, d, stride, next, ahead, sum, now, q, q_stride);
      q += Block::kSteps;
      std::swap(now, next);
    }
    turn_and_multiply<V, T, R, kParts, false, true>(keys, 0, 0, next, ahead, sum, now, q, q_stride);
  }
};

/// The products of a vector type. Specialised where an ISA has a better way than the one above:
/// x86_avx2_scores.h, arm_sve512_scores.h.
template <class V, class T>
struct BlockProducts : TileProducts<V, T> {};

/// Scores of R rows against kParts vectors of keys from j0 on.
template <class V, class T, int R, int kParts, class Queries>
void score_keys(const DecodeScoresArgs& args, std::int64_t row, const Queries& queries, std::int64_t j0,
                RowFetcher& fetcher) {
  using Block = BlockProducts<V, T>;
  RowFetcher ahead = fetcher;  // A copy can be in registers; behind a reference it would be in memory.
  const float* q = args.q + row * args.q_stride;
  const T* keys[kParts];
#pragma GCC unroll 16
  for (int p = 0; p < kParts; ++p) {
    const std::int64_t j = j0 + p * V::kLanes;
    keys[p] = row_of<T>(args.k, j < args.kv ? j : j0);
  }
  typename V::Reg sum[R][kParts];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) sum[r][p] = V::zero();
  }
  std::int64_t d = 0;
  if (args.kv - j0 >= kParts * V::kLanes && args.dim >= Block::kDims) {
    d = args.dim / Block::kDims * Block::kDims;
    Block::template add<R, kParts>(keys, args.k.stride, d, queries, sum, ahead);
    q += d / Block::kDims * Block::kSteps;
  }
  // The lines of these rows that no block above has fetched.
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  std::int64_t lines = kParts * V::kLanes * lines_of_row(args.dim * kBytes);
  for (lines -= d / Block::kDims * kParts * Block::kLines; lines > 0; --lines) ahead.fetch_line();
  for (; d < args.dim;
       d += kElements<V>, q += V::kLanes) {  // The rest: fewer keys or elements than a block has.
    const std::int64_t dims = args.dim - d;
    const int count = dims < kElements<V> ? static_cast<int>(lanes_of<V>(dims)) : V::kLanes;
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) {
      typename V::Reg x[V::kLanes];
      load_transposed<V>(
          x, [&](int i) { return keys[p] + i * args.k.stride; }, args.kv - j0 - p * V::kLanes, d, dims);
      for (int i = 0; i < count; ++i) {
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r)
          sum[r][p] = multiply_add<V>(x[i], V::set1(q[r * args.q_stride + i]), sum[r][p]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    float* out = args.scores + (row + r) * args.score_stride + j0;
#pragma GCC unroll 16
    for (int p = 0; p < kParts; ++p) V::store(out + p * V::kLanes, sum[r][p]);
  }
  fetcher = ahead;
}

/// Computes the scores of some keys, from the first on, and returns of how many. Specialised where an ISA has
/// a better way for some of them: arm_sve512_scores.h.
template <class V, class T, int R>
struct FirstScores {
  static constexpr std::int64_t kKeys = 0;  ///< made together
  static std::int64_t make(const DecodeScoresArgs& /*args*/, std::int64_t /*row*/, RowFetcher& /*ahead*/) {
    return 0;
  }
};

template <class V, class T, int R>
void score_rows(const DecodeScoresArgs& args, std::int64_t row) {
  constexpr int kParts = BlockProducts<V, T>::template kPartsOf<R>;
  constexpr std::int64_t kKeys = kParts * V::kLanes, kFirstKeys = FirstScores<V, T, R>::kKeys;
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  constexpr std::int64_t kTogether = kKeys < kFirstKeys ? kFirstKeys : kKeys;
  const std::int64_t span = kTogether * args.dim * kBytes + 4096;  // at least, see key_vectors()
  RowFetcher ahead(args.rows_ahead, span > args.fetch.keys ? span : args.fetch.keys, 1, 1);
  const typename BlockProducts<V, T>::template Queries<R> queries(args, row);
  for (std::int64_t j0 = FirstScores<V, T, R>::make(args, row, ahead); j0 < args.kv; j0 += kKeys)
    score_keys<V, T, R, kParts>(args, row, queries, j0, ahead);
}

template <class V, class T>
void decode_scores(const DecodeScoresArgs& args) {
  for_row_groups<8>(args.rows, [&]<int R>(std::int64_t row) { score_rows<V, T, R>(args, row); });
}

}  // namespace
}  // namespace kumiko::kernels
