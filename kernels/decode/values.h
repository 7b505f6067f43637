// SPDX-License-Identifier: Apache-2.0
// Outputs of decode.h for any vector type of kernels/simd: O += P V and l += P.
#pragma once

#include <type_traits>
#include <utility>

#include "kernels/decode/rows.h"

namespace kumiko::kernels {
namespace {

/// Part of a block of values: keys [first_key, end_key), vectors [first, end) of v_dim, and the lines to
/// fetch with each key. (RowFetcher::fetch() fetches one line or two, by branches that are predicted badly:
/// AVX2, in L2, 3.1 us for 256 f32 keys instead of 2.65.)
struct ValuePart {
  std::int64_t first_key, end_key, first, end, lines;
  ValuePart between(std::int64_t key, std::int64_t last_key) const {
    return {key > first_key ? key : first_key, last_key < end_key ? last_key : end_key, first, end, lines};
  }
};

/// Whether two vectors of sums are kept as those of even and those of odd elements.
template <class V, class T>
constexpr bool kEvenOdd = std::is_same_v<T, Bf16>&& requires(typename V::Reg& x) {
  V::to_even_odd(x, x);
};

/// N vectors of a row's sums. In memory they are in order; with kSplit every two of them are, in registers,
/// one vector of even and one of odd elements.
template <class V, int N, bool kSplit>
[[gnu::always_inline]] inline void load_sums(const float* o, typename V::Reg (&sum)[N]) {
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) sum[n] = V::load(o + n * V::kLanes);
  if constexpr (kSplit) {
#pragma GCC unroll 16
    for (int n = 0; n < N; n += 2) V::to_even_odd(sum[n], sum[n + 1]);
  }
}
template <class V, int N, bool kSplit>
[[gnu::always_inline]] inline void store_sums(float* o, typename V::Reg (&sum)[N]) {
  if constexpr (kSplit) {
#pragma GCC unroll 16
    for (int n = 0; n < N; n += 2) V::from_even_odd(sum[n], sum[n + 1]);
  }
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) V::store(o + n * V::kLanes, sum[n]);
}

/// N vectors of a value row, the last of `tail` elements if kPartial.
template <class V, class T, int N, bool kSplit, bool kPartial>
[[gnu::always_inline]] inline void load_value(const T* v, std::int64_t tail, typename V::Reg (&value)[N]) {
  if constexpr (kSplit) {
#pragma GCC unroll 16
    for (int n = 0; n < N; n += 2) V::load_pairs(v + n * V::kLanes, value[n], value[n + 1]);
  } else {
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      const T* at = v + n * V::kLanes;
      value[n] = in_register<V>(kPartial && n == N - 1 ? V::load_first(at, tail) : V::load(at));
    }
  }
}

/// add_values() below for whole vectors. Specialised where an ISA has a better way: arm_sve512_values.h.
template <class V, class T, int R, int N>
struct WholeValues {
  static constexpr bool kIsBetter = false;
};

/// For R rows that see all keys of the part: N vectors, the last of them partial or not. kLast: they are the
/// last ones of v_dim, and l += P is done with them. (Without the unroll pragmas g++ 12 keeps the sums in
/// memory, 2.4x slower. Fetching the lines of four keys together was no better, as time over that of this
/// code: AVX-512 f32 0.91 to 1.03 in ten runs, in L2 1.2; 16-bit elements 0.99 to 1.05; AVX2 1.00 to 1.05.)
template <class V, class T, int R, int N, bool kPartial, bool kLast>
void add_values(const DecodeValuesArgs& args, std::int64_t row, const ValuePart& part, RowFetcher& fetcher) {
  if constexpr (WholeValues<V, T, R, N>::kIsBetter && !kPartial)
    return WholeValues<V, T, R, N>::template add<kLast>(args, row, part, fetcher);
  RowFetcher ahead = fetcher;  // A copy can be in registers; behind a reference it would be in memory.
  const std::int64_t d = part.first * V::kLanes, tail = args.v_dim - (part.end - 1) * V::kLanes;
  constexpr bool kSplit = kEvenOdd<V, T> && N % 2 == 0 && !kPartial;
  typename V::Reg sum[R][N], weight[R];
  const float* p = args.p + row * args.p_stride;
  float* o = args.o + row * args.o_stride + d;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (kLast) weight[r] = V::set1(args.l[row + r]);
    load_sums<V, N, kSplit>(o + r * args.o_stride, sum[r]);
  }
  for (std::int64_t j = part.first_key; j < part.end_key;) {
    const T* v = row_of<T>(args.v, j) + d;
    const std::int64_t end = group_end(args.v, j), stop = end < part.end_key ? end : part.end_key;
    for (; j < stop; ++j, v += args.v.stride) {
      for (std::int64_t i = 0; i < part.lines; ++i) ahead.fetch_line();
      if constexpr (R == 1 && !kSplit) {  // Each value is used once: no registers for all N of them.
        const auto x = V::set1(p[j]);
        if (kLast) weight[0] = V::add(weight[0], x);
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) {
          const T* at = v + n * V::kLanes;
          sum[0][n] = V::fma(x, kPartial && n == N - 1 ? V::load_first(at, tail) : V::load(at), sum[0][n]);
        }
        continue;
      }
      typename V::Reg value[N];
      load_value<V, T, N, kSplit, kPartial>(v, tail, value);
#pragma GCC unroll 16
      for (int r = 0; r < R; ++r) {
        const auto x = V::set1(p[r * args.p_stride + j]);
        if (kLast) weight[r] = V::add(weight[r], x);
#pragma GCC unroll 16
        for (int n = 0; n < N; ++n) sum[r][n] = V::fma(x, value[n], sum[r][n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (kLast) V::store_first(args.l + row + r, 1, weight[r]);
    store_sums<V, N, kSplit>(o + r * args.o_stride, sum[r]);
  }
  fetcher = ahead;
}

template <class V, class T, int R, int kMost>
void add_values(const DecodeValuesArgs& args, std::int64_t row, const ValuePart& part, RowFetcher& ahead) {
  const std::int64_t tail = args.v_dim - (part.end - 1) * V::kLanes;
  const auto add = [&]<int N>(std::integral_constant<int, N>) {
    if (tail > V::kLanes) {
      add_values<V, T, R, N, false, false>(args, row, part, ahead);
    } else if (tail == V::kLanes) {
      add_values<V, T, R, N, false, true>(args, row, part, ahead);
    } else {
      add_values<V, T, R, N, true, true>(args, row, part, ahead);
    }
  };
  const auto pick = [&]<int... kLess>(std::integer_sequence<int, kLess...>) {
    static_cast<void>(
        ((part.end - part.first == kLess + 1 && (add(std::integral_constant<int, kLess + 1>{}), true)) ||
         ...));
  };
  pick(std::make_integer_sequence<int, kMost>{});
}

/// Whether one of a row's runs has all keys [first, last).
inline bool sees_all(const KeyRuns& runs, std::int64_t first, std::int64_t last) {
  for (std::int64_t i = 0; i < runs.count; ++i) {
    if (runs.run[i].begin <= first && runs.run[i].end >= last) return true;
  }
  return false;
}

/// Whether every row sees the whole block. Checked once a block, not for each part.
inline bool all_see_all(const DecodeValuesArgs& args) {
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (!sees_all(args.runs[row], 0, args.kv)) return false;
  }
  return true;
}

/// Adds what each of R rows sees of the part.
template <class V, class T, int R, int kMost>
void add_visible_values(const DecodeValuesArgs& args, std::int64_t row, const ValuePart& part, bool all,
                        RowFetcher& ahead) {
  if (!all) {
    all = true;
    for (int r = 0; r < R; ++r) all = all && sees_all(args.runs[row + r], part.first_key, part.end_key);
  }
  if (all) return add_values<V, T, R, kMost>(args, row, part, ahead);
  for (int r = 0; r < R; ++r) {
    const KeyRuns& runs = args.runs[row + r];
    for (std::int64_t i = 0; i < runs.count && runs.run[i].begin < part.end_key; ++i) {
      const ValuePart seen = part.between(runs.run[i].begin, runs.run[i].end);
      if (seen.first_key < seen.end_key) add_values<V, T, 1, kMost>(args, row + r, seen, ahead);
    }
  }
}

/// How many keys all passes read before they go on to the next keys: the first pass reads their values from
/// memory, and for the others they should be in L1, beside what has been fetched ahead. 64 keys of 16-bit
/// elements save 4 to 5 % of the arithmetic, but the first pass then needs all of them from memory at once
/// (AVX-512, f16, 4096 keys: 0.68 of the read loop instead of 0.72).
#ifdef __ARM_FEATURE_SVE
// With an L1 of 64 KiB and 32 registers of 64 bytes (A64FX), it pays to halve the time in which passes begin
// and end.
constexpr std::int64_t kLeastTogether = 32, kMostTogether = 64;
#else
constexpr std::int64_t kLeastTogether = 8, kMostTogether = 32;
#endif
/// As many as FetchDistances::values_together has room for; a multiple of 4.
template <class T>
std::int64_t keys_together(const DecodeValuesArgs& args) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  std::int64_t keys = args.fetch.values_together / (args.v_dim * kBytes) / 4 * 4;
  if (keys < kLeastTogether) keys = kLeastTogether;
  // With more than one multiply-add a byte, arithmetic is the bound, and the time in which passes begin and
  // end is a part of it. (On A64FX the minimum is that large anyway.)
  if (kLeastTogether < 32 && args.rows > kBytes) keys *= 2;
  return keys < kMostTogether ? keys : kMostTogether;
}

/// floor(i * total / parts) for i = 1, 2, ... without divisions, which took 6 of 104 cycles a key (A64FX, 4
/// rows, D = 128).
class EvenCuts {
 public:
  EvenCuts(std::int64_t total, std::int64_t parts)
      : parts_(parts), step_(total / parts), rest_(total % parts) {}
  std::int64_t next() {
    at_ += step_;
    over_ += rest_;
    if (over_ >= parts_) over_ -= parts_, ++at_;
    return at_;
  }

 private:
  std::int64_t parts_, step_, rest_, at_ = 0, over_ = 0;
};

/// kGroup rows by kMost vectors a pass, or fewer, so that all passes have about the same number of vectors.
template <class V, class T, int kGroup, int kMost>
void add_values_in_passes(const DecodeValuesArgs& args) {
  const std::int64_t vectors = (args.v_dim + V::kLanes - 1) / V::kLanes,
                     parts = (vectors + kMost - 1) / kMost,
                     passes = parts * ((args.rows + kGroup - 1) / kGroup);
  const std::int64_t width = args.v_dim * static_cast<std::int64_t>(sizeof(T)), lines = lines_of_row(width),
                     keys = keys_together<T>(args),
                     span = keys > 32 ? keys * width + 4096 : 0;  // at least: a pass touches all rows
  RowFetcher ahead(args.rows_ahead, span > args.fetch.values ? span : args.fetch.values, 1, passes);
  const bool all = all_see_all(args);
  const EvenCuts vectors_of_parts(vectors, parts), lines_of_passes(lines, passes);
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += keys) {
    const std::int64_t j1 = j0 + keys < args.kv ? j0 + keys : args.kv;
    EvenCuts vector = vectors_of_parts, line = lines_of_passes;
    std::int64_t first = 0, fetched = 0;
    for (std::int64_t i = 0; i < parts; ++i) {
      const std::int64_t end = vector.next();
      for_row_groups<kGroup>(args.rows, [&]<int R>(std::int64_t row) {
        const std::int64_t fetch = line.next();
        add_visible_values<V, T, R, kMost>(args, row, {j0, j1, first, end, fetch - fetched}, all, ahead);
        fetched = fetch;
      });
      first = end;
    }
  }
}

/// All of decode_add_values() for kLeastRows rows or more, if they see every key and v_dim is a whole number
/// of vectors. Specialised where an ISA has a better way: x86_values.h.
template <class V, class T>
struct BlockValues {
  static constexpr bool kIsBetter = false;
};

/// A single row has sums of more vectors in registers: more chains of multiply-adds, and fewer passes.
template <class V, class T, int kGroup, int kMost, int kMostOfRow>
void decode_add_values(const DecodeValuesArgs& args) {
  if (args.rows == 1) return add_values_in_passes<V, T, 1, kMostOfRow>(args);
  if constexpr (BlockValues<V, T>::kIsBetter) {
    if (args.rows >= BlockValues<V, T>::kLeastRows && args.v_dim % V::kLanes == 0 && all_see_all(args))
      return BlockValues<V, T>::add(args);
  }
  add_values_in_passes<V, T, kGroup, kMost>(args);
}

}  // namespace
}  // namespace kumiko::kernels
