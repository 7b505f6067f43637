// SPDX-License-Identifier: Apache-2.0
// BlockValues of values.h for x86: four rows by kColumns vectors of v_dim, all passes over some keys in one
// function, and one check for the lines of four keys.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/decode/values.h"

namespace kumiko::kernels {
namespace {

[[gnu::always_inline]] inline __m128 first_lanes(__m256 x) {
  return _mm256_castps256_ps128(x);
}
#ifdef __AVX512F__
[[gnu::always_inline]] inline __m128 first_lanes(__m512 x) {
  return _mm512_castps512_ps128(x);
}
#endif

/// Whether two vectors of sums are kept as those of even and those of odd elements. With AVX2, elements in
/// order take no more operations.
template <class V, class T, int N>
constexpr bool kSplitSums = kEvenOdd<V, T>&& N % 2 == 0 && V::kLanes == 16;

/// Sums of R rows by N vectors. add() adds one key: its weights are at p, p + step, ... and, for the last
/// row, at `last`. kWeighs: the weights are summed as well.
template <class V, class T, int R, int N>
struct ValueSums {
  typename V::Reg sum[R][N];
  __m128 weight[R];
  static constexpr bool kTakesWeights = V::kLanes == 16;  ///< AVX2 has too few registers

  template <bool kWeighs>
  [[gnu::always_inline]] void add(const T* v, const float* p, const float* last, std::int64_t step) {
    typename V::Reg value[N];
    load_value<V, T, N, kSplitSums<V, T, N>, false>(v, 0, value);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const auto x = in_register<V>(V::set1(r == R - 1 ? *last : p[r * step]));
      if constexpr (kWeighs) weight[r] = _mm_add_ss(weight[r], first_lanes(x));
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[r][n] = in_register<V>(V::fma(x, value[n], sum[r][n]));
    }
  }
};

template <class V, class T, int kColumns>
struct ValuesByBlocks {
  static constexpr bool kIsBetter = true;
  static constexpr std::int64_t kLeastRows = 3;

  static void add(const DecodeValuesArgs& args) {
    const std::int64_t lines = lines_of_row(args.v_dim * static_cast<std::int64_t>(sizeof(T))),
                       groups = (args.rows + kRows - 1) / kRows;
    RowFetcher ahead(args.rows_ahead, args.fetch.values, 1, 1);
    sort_sums<false>(args);
    const std::int64_t keys = keys_together<T>(args);
    for (std::int64_t j = 0; j < args.kv; j += keys) {
      const Turn turn(args, j, keys);
      EvenCuts rows(args.rows, groups);
      std::int64_t fetched = 0;
      for (std::int64_t group = 0, row = 0; group < groups; ++group) {
        const std::int64_t end = rows.next();
        const Share share{group, groups};
        switch (end - row) {
          case 4:
            fetched += add_rows<4>(args, turn, row, share, ahead);
            break;
          case 3:
            fetched += add_rows<3>(args, turn, row, share, ahead);
            break;
          default:
            fetched += add_rows<2>(args, turn, row, share, ahead);
            break;
        }
        row = end;
      }
      for (fetched -= lines * turn.keys; fetched < 0; ++fetched) ahead.fetch_line();
    }
    sort_sums<true>(args);
  }

 private:
  static constexpr std::int64_t kRows = 4;  ///< most rows of a pass
  static constexpr int kStep = 4;           ///< keys whose lines are fetched together
  static constexpr std::int64_t kMostRuns = kMostTogether / kLeastGroup + 1;

  /// The groups of rows read the same values and share the fetches: each fetches in one of `every` steps of
  /// keys, from step `first` on.
  struct Share {
    std::int64_t first, every;
  };

  /// The keys of a pass.
  struct Turn {
    struct Run {
      const T* v;
      std::int64_t keys;
    } run[kMostRuns];
    std::int64_t first, keys, runs = 0;
    Turn(const DecodeValuesArgs& args, std::int64_t j, std::int64_t most)
        : first(j), keys(j + most < args.kv ? most : args.kv - j) {
      for (const std::int64_t last = j + keys; j < last;) {
        const std::int64_t end = group_end(args.v, j), stop = end < last ? end : last;
        run[runs++] = {row_of<T>(args.v, j), stop - j};
        j = stop;
      }
    }
  };

  /// Vectors of the next pass. A pass of a single vector, whose sums would wait for each other, is avoided.
  static int columns_of(std::int64_t left) {
    if (left >= kColumns && left != kColumns + 1) return kColumns;
    return left >= 3 && kColumns > 3 ? 3 : left >= 2 ? 2 : 1;
  }

  /// Where passes keep even and odd sums: sorts O into that order, or back into that of v_dim (kBack). Once a
  /// call and not in each pass over 32 keys (Zen 4, bf16, 4 rows, 256 keys, in L2: 2.68 us instead of 2.75).
  template <bool kBack>
  static void sort_sums(const DecodeValuesArgs& args) {
    if constexpr (kSplitSums<V, T, 2>) {
      const std::int64_t vectors = args.v_dim / V::kLanes;
      for (std::int64_t row = 0; row < args.rows; ++row) {
        float* o = args.o + row * args.o_stride;
        for (std::int64_t left = vectors; left > 0;) {
          const int columns = columns_of(left);
          for (int n = 0; columns % 2 == 0 && n < columns; n += 2) {
            float* const at = o + n * V::kLanes;
            typename V::Reg two[2];
            load_sums<V, 2, !kBack>(at, two);
            store_sums<V, 2, kBack>(at, two);
          }
          o += columns * V::kLanes, left -= columns;
        }
      }
    }
  }

  /// Adds all values of a turn to R rows, and the weights to their l. Returns how many lines it fetched.
  template <int R>
  [[gnu::noinline]] static std::int64_t add_rows(const DecodeValuesArgs& args, const Turn& turn,
                                                 std::int64_t row, const Share& share, RowFetcher& fetcher) {
    RowFetcher ahead = fetcher;
    std::int64_t fetched = 0;
    std::int64_t column = 0, left = args.v_dim / V::kLanes;
    bool weighs = true;
    while (left > 0) {
      const auto pass = [&]<int N>(std::integral_constant<int, N>) __attribute__((always_inline)) {
        constexpr bool kTakesWeights = ValueSums<V, T, R, N>::kTakesWeights;
        fetched += weighs ? add_columns<R, N, kTakesWeights>(args, turn, row, column, share, ahead)
                          : add_columns<R, N, false>(args, turn, row, column, share, ahead);
        weighs = weighs && !kTakesWeights;
        column += N * V::kLanes, left -= N;
      };
      switch (columns_of(left)) {
        case 1:
          pass(std::integral_constant<int, 1>{});
          break;
        case 2:
          pass(std::integral_constant<int, 2>{});
          break;
        case 3:
          pass(std::integral_constant<int, 3>{});
          break;
        default:
          if constexpr (kColumns > 3) pass(std::integral_constant<int, kColumns>{});
          break;
      }
    }
    if (weighs) add_weights<R>(args, turn, row);
    fetcher = ahead;
    return fetched;
  }

  template <int R, int N, bool kWeighs>
  [[gnu::always_inline]] static std::int64_t add_columns(const DecodeValuesArgs& args, const Turn& turn,
                                                         std::int64_t row, std::int64_t column,
                                                         const Share& share, RowFetcher& ahead) {
    constexpr int kLines = kStep * N * V::kLanes * static_cast<int>(sizeof(T)) / kLine;
    float* const o = args.o + row * args.o_stride + column;
    const float *p = args.p + row * args.p_stride + turn.first, *last = p + (R - 1) * args.p_stride;
    ValueSums<V, T, R, N> sums;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) load_sums<V, N, false>(o + r * args.o_stride, sums.sum[r]);
    if constexpr (kWeighs) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums.weight[r] = _mm_load_ss(args.l + row + r);
    }
    std::int64_t until = share.first, fetched = 0;
    for (std::int64_t i = 0; i < turn.runs; ++i) {
      const T* v = turn.run[i].v + column;
      const float* const end = p + turn.run[i].keys;
      for (; p + kStep <= end; p += kStep, last += kStep) {
        const bool fetches = --until < 0;
        if (fetches) until += share.every, fetched += kLines;
        const auto add = [&]<int u>(std::integral_constant<int, u>) __attribute__((always_inline)) {
          if (fetches) ahead.fetch_lines<kLines*(u + 1) / kStep - kLines * u / kStep>();
          sums.template add<kWeighs>(v, p + u, last + u, args.p_stride);
          v += args.v.stride;
        };
        [&]<int... u>(std::integer_sequence<int, u...>) __attribute__((always_inline)) {
          (add(std::integral_constant<int, u>{}), ...);
        }
        (std::make_integer_sequence<int, kStep>{});
      }
      for (; p != end; ++p, ++last, v += args.v.stride) sums.template add<kWeighs>(v, p, last, args.p_stride);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) store_sums<V, N, false>(o + r * args.o_stride, sums.sum[r]);
    if constexpr (kWeighs) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) _mm_store_ss(args.l + row + r, sums.weight[r]);
    }
    return fetched;
  }

  template <int R>
  static void add_weights(const DecodeValuesArgs& args, const Turn& turn, std::int64_t row) {
    float weight[R];
    for (int r = 0; r < R; ++r) weight[r] = args.l[row + r];
    const float* p = args.p + row * args.p_stride + turn.first;
    for (std::int64_t j = 0; j < turn.keys; ++j) {
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) weight[r] += p[r * args.p_stride + j];
    }
    for (int r = 0; r < R; ++r) args.l[row + r] = weight[r];
  }
};

}  // namespace
}  // namespace kumiko::kernels
