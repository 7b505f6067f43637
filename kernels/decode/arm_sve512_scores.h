// SPDX-License-Identifier: Apache-2.0
// BlockProducts of scores.h for f32 keys on A64FX. The core has a window of 128 instructions, of which 20
// wait for each of its two pipes, and only one pipe executes shuffles. So four shuffles alternate with the
// products of a vector of keys, and the four rounds of shuffles of a block are done two and two, each for
// four groups of rows: both pipes have work, and 32 registers are enough. Bound: 80 cycles for 16 keys by 16
// dims, by shuffles and stores, which take the same pipe; the products of four rows take the other one for
// 64.
#pragma once

#include <cstddef>

#include "kernels/decode/arm_sve512_order.h"
#include "kernels/decode/scores.h"

namespace kumiko::kernels {
namespace {

/// 64 keys at a time, in groups of 16. The assembly knows the offsets.
struct ScoreKeys {
  const float* const* group;  ///< four for every 64 keys, and five more, which may be read
  std::int64_t k_bytes;       ///< from one key to the next
  const float* q;
  std::int64_t q_bytes;  ///< from one row to the next
  std::int64_t turns;    ///< of kTurnDims dims each
  std::int64_t count;    ///< how many times 64 keys
  float* scores;
  std::int64_t score_bytes;  ///< from one row to the next
  float* turned;             ///< room for transposed keys, 4 KiB, aligned to that
  RowFetcher* ahead;
};
constexpr std::int64_t kTurnDims = 8;
static_assert(offsetof(ScoreKeys, ahead) == 72);

}  // namespace

/// In arm_sve512_scores.S.
extern "C" void decode_f32_sve512_scores_of_keys(const ScoreKeys*) noexcept;
}  // namespace kumiko::kernels

namespace kumiko::kernels {
namespace {

template <>
struct BlockProducts<Sve512, float> : TransposedBlock<Sve512, float> {
  using Reg = Sve512::Reg;
  static constexpr int kLanes = Sve512::kLanes, kGroup = 4;
  static constexpr int kTurns = 4;  ///< rounds of shuffles: two of the next block, two of this one

  /// Vectors of keys: with fewer than eight chains the latency of nine cycles would be the bound.
  template <int R>
  static constexpr int kPartsOf = R <= 4 ? 2 : 1;
  template <int R>
  using Queries = QueryRows;

  template <int R, int kParts>
  struct State {
    const float* keys[kParts];                               ///< of the next group of rows to read
    const float* q[R];                                       ///< the dims of `key`
    std::int64_t stride, second_row, third_row, fourth_row;  ///< of a group, from its first
    Reg sum[R][kParts];
    Reg key[kParts][kGroup];  ///< four dims of all keys
  };

  /// Products of vector i of those in `key`: one dim of one part.
  template <int i, int R, int kParts>
  [[gnu::always_inline]] static void multiply(State<R, kParts>& state) {
    constexpr int kDim = i / kParts, kPart = i % kParts;
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      state.sum[r][kPart] =
          plus_product(state.sum[r][kPart], state.key[kPart][kDim], Sve512::set1(state.q[r][kDim]));
    });
  }

  /// A block between its two pairs of rounds: for dims 4 c to 4 c + 3, the first vector of each group of
  /// rows, part by part, then the second vectors, and so on. kStep is from c to c + 1.
  template <int kParts>
  static constexpr int kStep = kGroup* kParts* kLanes;

  /// Reads a group of a block's rows into `read` (kRead) and makes four dims from `half` (kMake), while those
  /// made before are multiplied (kMultiply).
  template <bool kRead, bool kMake, bool kMultiply, int R, int kParts>
  [[gnu::always_inline]] static void step(State<R, kParts>& state, float* read, const float* half,
                                          RowFetcher& ahead) {
    Reg made[kParts][kGroup];
    unrolled<kParts>([&](auto p) __attribute__((always_inline)) {
      constexpr int kPart = p;
      if constexpr (kRead) ahead.fetch_lines<kGroup * kLanes * 4 / kLine>();
      Reg x[kGroup];
      unrolled<kTurns>([&](auto turn) __attribute__((always_inline)) {
        constexpr bool kRows = turn < 2;
        if constexpr (kRead && turn == 0) {
          const float* const row = state.keys[kPart];
          x[0] = Sve512::load(row);
          x[1] = Sve512::load(row + state.second_row);
          x[2] = Sve512::load(row + state.third_row);
          x[3] = Sve512::load(row + state.fourth_row);
          state.keys[kPart] += state.stride;
        }
        if constexpr (kMake && turn == 2) {
          unrolled<kGroup>([&](auto i) __attribute__((always_inline)) {
            x[i] = Sve512::load(half + (i * kParts + kPart) * kLanes);
          });
        }
        if constexpr (kRows ? kRead : kMake) shuffle_rows(x);
        if constexpr (kMultiply) multiply<kTurns * kPart + turn>(state);
        if constexpr (kRead && turn == 1) {
          unrolled<kGroup>([&](auto i) __attribute__((always_inline)) {
            Sve512::store(read + i * kStep<kParts> + kPart * kLanes, x[i]);
          });
        }
      });
      if constexpr (kMake)
        unrolled<kGroup>([&](auto i) __attribute__((always_inline)) { made[kPart][i] = x[i]; });
    });
    if constexpr (kMultiply)
      unrolled<R>([&](auto r) __attribute__((always_inline)) { state.q[r] += kGroup; });
    if constexpr (kMake) {
      unrolled<kParts * kGroup>([&](auto i) __attribute__((always_inline)) {
        state.key[i / kGroup][i % kGroup] = made[i / kGroup][i % kGroup];
      });
    }
  }
  /// Steps [first, 4) of a block.
  template <bool kRead, bool kMake, bool kMultiply, int R, int kParts>
  [[gnu::always_inline]] static void steps(State<R, kParts>& state, int first, float* read, const float* half,
                                           RowFetcher& ahead) {
    read += first * kParts * kLanes, half += first * kStep<kParts>;
    for (int c = first; c < kGroup; ++c, read += kParts * kLanes, half += kStep<kParts>)
      step<kRead, kMake, kMultiply>(state, read, half, ahead);
  }

  template <int R, int kParts>
  [[gnu::always_inline]] static void add(const float* const (&keys)[kParts], std::int64_t stride,
                                         std::int64_t dims, const QueryRows& queries, Reg (&sum)[R][kParts],
                                         RowFetcher& ahead) {
    alignas(64) float halves[2][kGroup * kStep<kParts>];
    float *now = halves[0], *next = halves[1];
    State<R, kParts> state;
    state.stride = stride, state.second_row = 4 * stride, state.third_row = 8 * stride;
    state.fourth_row = 12 * stride;
    // Offsets in registers of their own: g++ would add the stride three times for each group.
    asm("" : "+r"(state.second_row), "+r"(state.third_row), "+r"(state.fourth_row));
    unrolled<R>([&](auto r) __attribute__((always_inline)) { state.q[r] = queries.q + r * queries.stride; });
    unrolled<R * kParts>([&](auto i) __attribute__((always_inline)) {
      state.sum[i / kParts][i % kParts] = sum[i / kParts][i % kParts];
    });
    const auto first_rows = [&](std::int64_t d) __attribute__((always_inline)) {
      unrolled<kParts>([&](auto p) __attribute__((always_inline)) { state.keys[p] = keys[p] + d; });
    };
    first_rows(0);
    steps<true, false, false>(state, 0, now, now, ahead);
    int first = 1;
    if (dims > kLanes) {
      first_rows(kLanes);
      step<true, true, false>(state, next, now, ahead);
      for (std::int64_t d = 2 * kLanes;; d += kLanes) {
        steps<true, true, true>(state, first, next, now, ahead);
        std::swap(now, next);
        first = 0;
        if (d == dims) break;
        first_rows(d);
      }
    } else {
      step<false, true, false>(state, next, now, ahead);
    }
    steps<false, true, true>(state, first, next, now, ahead);
    unrolled<kParts * kGroup>([&](auto k) __attribute__((always_inline)) { multiply<k>(state); });
    unrolled<R * kParts>([&](auto k) __attribute__((always_inline)) {
      sum[k / kParts][k % kParts] = state.sum[k / kParts][k % kParts];
    });
  }
};

/// Four rows, where `dim` is a multiple of kTurnDims; keys in multiples of 64.
template <>
struct FirstScores<Sve512, float, 4> {
  static constexpr std::int64_t kKeys = 64;
  static std::int64_t make(const DecodeScoresArgs& args, std::int64_t row, RowFetcher& ahead) {
    constexpr std::int64_t kGroup = Sve512::kLanes, kGroups = kKeys / kGroup, kMost = 4;
    constexpr std::int64_t kLinesOfTurn = kKeys * kTurnDims * 4 / kLine;
    if (args.dim % kTurnDims != 0) return 0;
    alignas(4096) float turned[1024];
    const std::int64_t turns = args.dim / kTurnDims,
                       lines = kKeys * lines_of_row(args.dim * 4) - turns * kLinesOfTurn;
    std::int64_t first = 0, count = 0;
    for (; first + kKeys <= args.kv; first += count * kKeys) {
      count = (args.kv - first) / kKeys < kMost ? (args.kv - first) / kKeys : kMost;
      const float* group[(kMost + 1) * kGroups + 1];
      for (std::int64_t i = 0; i <= (count + 1) * kGroups; ++i)
        group[i] = row_of<float>(args.k, i < count * kGroups ? first + i * kGroup : first);
      const ScoreKeys keys{group,
                           args.k.stride * 4,
                           args.q + row * args.q_stride,
                           args.q_stride * 4,
                           turns,
                           count,
                           args.scores + row * args.score_stride + first,
                           args.score_stride * 4,
                           turned,
                           &ahead};
      decode_f32_sve512_scores_of_keys(&keys);
      for (std::int64_t i = 0; i < count * lines; ++i) ahead.fetch_line();
    }
    return first;
  }
};

}  // namespace
}  // namespace kumiko::kernels
