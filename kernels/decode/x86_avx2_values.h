// SPDX-License-Identifier: Apache-2.0
// BlockValues of values.h on AVX2: four rows by three vectors of v_dim, 12 sums where values.h has 8, and all
// passes over some keys in one function. Zen 3, 256 keys, D = 128, in L2, the least of 9 runs in turns with
// values.h alone: 4 rows f32 4.8 us, so 4.0, bf16 5.0, 3.9, f16 4.2, 3.6; 8 rows bf16 9.7, 8.0. From memory
// two rows and one are no faster than there.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "kernels/decode/values.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {
namespace {

/// Sums of R rows by N vectors. A key at a time is added: its weights are at p, p + step, ... and, of the
/// last row, at `last`.
template <class T, int R, int N>
struct ValueSums {
  __m256 sum[R][N];

  [[gnu::always_inline]] void add(const T* v, const float* p, const float* last, std::int64_t step) {
    __m256 value[N];
    load_value<Avx2, T, N, false, false>(v, 0, value);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m256 x = in_register<Avx2>(Avx2::set1(r == R - 1 ? *last : p[r * step]));
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) sum[r][n] = in_register<Avx2>(Avx2::fma(x, value[n], sum[r][n]));
    }
  }
};

/// 12 sums, three values and a weight take all 16 registers; g++ 12 spills three of the sums.
#define KUMIKO_ADD_KEY(load_value) \
  asm volatile(load_value("0", "%%ymm0") load_value("1", "%%ymm1") load_value("2", "%%ymm2")             \
               "vbroadcastss (%[p]), %%ymm3\n"                                                           \
               KUMIKO_ADD_ROW("%0", "%1", "%2") "vbroadcastss (%[p],%[step]), %%ymm3\n"                  \
               KUMIKO_ADD_ROW("%3", "%4", "%5") "vbroadcastss (%[p],%[step],2), %%ymm3\n"                \
               KUMIKO_ADD_ROW("%6", "%7", "%8") "vbroadcastss (%[last]), %%ymm3\n"                       \
               KUMIKO_ADD_ROW("%9", "%10", "%11")                                                        \
               : "+x"(sum[0][0]), "+x"(sum[0][1]), "+x"(sum[0][2]), "+x"(sum[1][0]), "+x"(sum[1][1]),    \
                 "+x"(sum[1][2]), "+x"(sum[2][0]), "+x"(sum[2][1]), "+x"(sum[2][2]), "+x"(sum[3][0]),    \
                 "+x"(sum[3][1]), "+x"(sum[3][2])                                                        \
               : [v] "r"(v), [p] "r"(p), [step] "r"(step * 4), [last] "r"(last)                          \
               : "xmm0", "xmm1", "xmm2", "xmm3", "memory")
#define KUMIKO_ADD_ROW(a, b, c)                                                                            \
  "vfmadd231ps %%ymm0, %%ymm3, " a "\n vfmadd231ps %%ymm1, %%ymm3, " b "\n vfmadd231ps %%ymm2, %%ymm3, " c \
  "\n"
#define KUMIKO_LOAD_F32(n, to) "vmovups 32*" n "(%[v]), " to "\n"
#define KUMIKO_LOAD_BF16(n, to) "vpmovzxwd 16*" n "(%[v]), " to "\n vpslld $16, " to ", " to "\n"
#define KUMIKO_LOAD_F16(n, to) "vcvtph2ps 16*" n "(%[v]), " to "\n"

template <class T>
struct ValueSums<T, 4, 3> {
  __m256 sum[4][3];

  [[gnu::always_inline]] void add(const T* v, const float* p, const float* last, std::int64_t step) {
    if constexpr (std::is_same_v<T, float>) {
      KUMIKO_ADD_KEY(KUMIKO_LOAD_F32);
    } else if constexpr (std::is_same_v<T, Bf16>) {
      KUMIKO_ADD_KEY(KUMIKO_LOAD_BF16);
    } else {
      KUMIKO_ADD_KEY(KUMIKO_LOAD_F16);
    }
  }
};
#undef KUMIKO_ADD_KEY
#undef KUMIKO_ADD_ROW
#undef KUMIKO_LOAD_F32
#undef KUMIKO_LOAD_BF16
#undef KUMIKO_LOAD_F16

template <class T>
struct BlockValues<Avx2, T> {
  static constexpr bool kIsBetter = true;
  static constexpr std::int64_t kLeastRows = 3;

  static void add(const DecodeValuesArgs& args) {
    const std::int64_t lines = lines_of_row(args.v_dim * static_cast<std::int64_t>(sizeof(T))),
                       groups = (args.rows + kRows - 1) / kRows;
    RowFetcher ahead(args.rows_ahead, args.fetch.values, 1, 1);
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
  }

 private:
  static constexpr std::int64_t kRows = 4;  ///< of a pass at most
  static constexpr int kStep = 4;           ///< keys between which lines are fetched
  static constexpr std::int64_t kMostRuns = kMostTogether / kLeastGroup + 1;

  /// Which of the passes of all groups of rows over the same values fetches with a step of keys: in turn.
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

  /// Adds all values of a turn to R rows, and its weights. Returns how many lines it fetched.
  template <int R>
  [[gnu::noinline]] static std::int64_t add_rows(const DecodeValuesArgs& args, const Turn& turn,
                                                 std::int64_t row, const Share& share, RowFetcher& fetcher) {
    RowFetcher ahead = fetcher;
    std::int64_t fetched = 0;
    // No pass of a single vector: its sums would wait for each other.
    std::int64_t column = 0, left = args.v_dim / Avx2::kLanes;
    while (left > 0) {
      const auto pass = [&]<int N>(std::integral_constant<int, N>) __attribute__((always_inline)) {
        fetched += add_columns<R, N>(args, turn, row, column, share, ahead);
        column += N * Avx2::kLanes, left -= N;
      };
      if (left >= 3 && left != 4) {
        pass(std::integral_constant<int, 3>{});
      } else if (left >= 2) {
        pass(std::integral_constant<int, 2>{});
      } else {
        pass(std::integral_constant<int, 1>{});
      }
    }
    add_weights<R>(args, turn, row);
    fetcher = ahead;
    return fetched;
  }

  template <int R, int N>
  [[gnu::always_inline]] static std::int64_t add_columns(const DecodeValuesArgs& args, const Turn& turn,
                                                         std::int64_t row, std::int64_t column,
                                                         const Share& share, RowFetcher& ahead) {
    constexpr int kLines = kStep * N * Avx2::kLanes * static_cast<int>(sizeof(T)) / kLine;
    float* const o = args.o + row * args.o_stride + column;
    const float *p = args.p + row * args.p_stride + turn.first, *last = p + (R - 1) * args.p_stride;
    ValueSums<T, R, N> sums;
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) load_sums<Avx2, N, false>(o + r * args.o_stride, sums.sum[r]);
    std::int64_t until = share.first, fetched = 0;
    for (std::int64_t i = 0; i < turn.runs; ++i) {
      const T* v = turn.run[i].v + column;
      const float* const end = p + turn.run[i].keys;
      for (; p + kStep <= end; p += kStep, last += kStep) {
        const bool fetches = --until < 0;
        if (fetches) until += share.every, fetched += kLines;
        const auto add = [&]<int u>(std::integral_constant<int, u>) __attribute__((always_inline)) {
          if (fetches) ahead.fetch_lines<kLines*(u + 1) / kStep - kLines * u / kStep>();
          sums.add(v, p + u, last + u, args.p_stride);
          v += args.v.stride;
        };
        [&]<int... u>(std::integer_sequence<int, u...>) __attribute__((always_inline)) {
          (add(std::integral_constant<int, u>{}), ...);
        }
        (std::make_integer_sequence<int, kStep>{});
      }
      for (; p != end; ++p, ++last, v += args.v.stride) sums.add(v, p, last, args.p_stride);
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) store_sums<Avx2, N, false>(o + r * args.o_stride, sums.sum[r]);
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
