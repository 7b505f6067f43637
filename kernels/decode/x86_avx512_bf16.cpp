// SPDX-License-Identifier: Apache-2.0
// Decode in products of bf16 pairs: two dims of a key, two keys of a value. This is half the work a key of
// x86_avx512.cpp, which widens every element.
#include <type_traits>

#include "kernels/decode/vector.h"
#include "kernels/decode/x86_avx512_transpose.h"
#include "kernels/simd/avx512_bf16.h"

namespace kumiko::kernels {
namespace {

using V = Avx512Bf16;
constexpr int kRowGroup = 4;        // x 4 vectors of values = 16 sums + 4 weights of 32 registers
constexpr std::int64_t kDims = 64;  // of a pass: two loads a row

/// 32 dims of two keys side by side: dims 0-3, 8-11, 16-19, 24-27 in low, the others in high.
void interleave(V::Reg a, V::Reg b, V::Reg& low, V::Reg& high) {
  low = _mm512_castsi512_ps(_mm512_unpacklo_epi16(V::bits(a), V::bits(b)));
  high = _mm512_castsi512_ps(_mm512_unpackhi_epi16(V::bits(a), V::bits(b)));
}
/// 32 sums in that order, from and to memory in the order of dims. both: there are two vectors, else only the
/// first.
void load_split(bool both, const float* o, V::Reg& low, V::Reg& high) {
  const auto a = V::load(o), b = both ? V::load(o + V::kLanes) : V::zero();
  low = _mm512_shuffle_f32x4(a, b, 0x88);
  high = _mm512_shuffle_f32x4(a, b, 0xdd);
}
void store_joined(bool both, float* o, V::Reg low, V::Reg high) {
  const auto a = _mm512_shuffle_f32x4(low, high, 0x44), b = _mm512_shuffle_f32x4(low, high, 0xee);
  V::store(o, _mm512_shuffle_f32x4(a, a, 0xd8));
  if (both) V::store(o + V::kLanes, _mm512_shuffle_f32x4(b, b, 0xd8));
}

/// Which keys a row sees: all, or those of its runs. Keys are asked for in rising order.
struct EveryKey {};
struct SomeKeys {
  const KeyRun* run;
  const KeyRun* last;
  bool operator()(std::int64_t j) {
    while (run != last && run->end <= j) ++run;
    return run != last && run->begin <= j;
  }
};

/// Values of two keys, kVectors vectors of dims. kPartial: v_dim ends within the last load, after `left`
/// dims.
template <int kVectors, bool kPartial>
struct ValuePair {
  static constexpr int kLoads = (kVectors + 1) / 2;
  V::Reg x[kLoads], y[kLoads];

  [[gnu::always_inline]] void load(const Bf16* v, std::int64_t stride, std::int64_t left) {
#pragma GCC unroll 16
    for (int n = 0; n < kLoads - 1; ++n)
      interleave(V::load(v + n * kElements<V>), V::load(v + stride + n * kElements<V>), x[n], y[n]);
    const Bf16* tail = v + (kLoads - 1) * kElements<V>;
    interleave(load_tail(tail, left), load_tail(tail + stride, left), x[kLoads - 1], y[kLoads - 1]);
  }
  /// A key that is not seen is not read; its values are zeros.
  [[gnu::always_inline]] void load_seen(const Bf16* v, std::int64_t stride, std::int64_t left, bool first,
                                        bool second) {
    for (int n = 0; n < kLoads; ++n) {
      const Bf16* at = v + n * kElements<V>;
      const std::int64_t dims = n + 1 < kLoads ? kElements<V> : left;
      interleave(first ? V::load_first(at, dims) : V::zero(),
                 second ? V::load_first(at + stride, dims) : V::zero(), x[n], y[n]);
    }
  }

 private:
  static V::Reg load_tail(const Bf16* from, std::int64_t left) {
    return kPartial ? V::load_first(from, left) : V::load(from);
  }
};

/// O of R rows, kVectors vectors of dims in the order of interleave(), and l.
template <int R, int kVectors>
struct PairSums {
  static constexpr int kLoads = (kVectors + 1) / 2;
  V::Reg low[R][kLoads], high[R][kLoads], weight[R];

  static constexpr bool has_both(int n) { return n + 1 < kLoads || kVectors % 2 == 0; }

  [[gnu::always_inline]] void load(const float* l, const float* o, std::int64_t o_stride) {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      weight[r] = V::set1(l[r]);
#pragma GCC unroll 16
      for (int n = 0; n < kLoads; ++n)
        load_split(has_both(n), o + r * o_stride + 2 * n * V::kLanes, low[r][n], high[r][n]);
    }
  }
  /// Two keys; p: their probabilities for the first row.
  template <bool kLast>
  [[gnu::always_inline]] void add(const V::Reg (&x)[kLoads], const V::Reg (&y)[kLoads],
                                  const std::uint16_t* p, std::int64_t p_stride) {
    const auto ones = V::pair_of_ones();
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      std::int32_t bits;
      __builtin_memcpy(&bits, p + r * p_stride, sizeof bits);
      const auto pair = _mm512_castsi512_ps(_mm512_set1_epi32(bits));
      if constexpr (kLast) weight[r] = V::product(pair, ones, weight[r]);
#pragma GCC unroll 16
      for (int n = 0; n < kLoads; ++n) {
        low[r][n] = V::product(x[n], pair, low[r][n]);
        high[r][n] = V::product(y[n], pair, high[r][n]);
      }
    }
  }
  template <bool kLast>
  [[gnu::always_inline]] void store(float* l, float* o, std::int64_t o_stride) const {
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      if constexpr (kLast) V::store_first(l + r, 1, weight[r]);
#pragma GCC unroll 16
      for (int n = 0; n < kLoads; ++n)
        store_joined(has_both(n), o + r * o_stride + 2 * n * V::kLanes, low[r][n], high[r][n]);
    }
  }
};

/// Keys [first, last), both even. `last` may be one more than there are keys.
struct PairRange {
  std::int64_t first, last;
};

/// O += P V over pairs of keys for R rows, dims [d, ...) in kVectors vectors of sums, and with the last dims
/// l += P.
template <int R, int kVectors, bool kPartial, bool kLast, class Sees>
void add_pairs(const DecodeValuesArgs& args, std::int64_t row, PairRange keys, std::int64_t d,
               RowFetcher& ahead, Sees sees) {
  ValuePair<kVectors, kPartial> value;
  PairSums<R, kVectors> sums;
  const std::int64_t left = args.v_dim - d - (value.kLoads - 1) * kElements<V>;
  const std::int64_t p_stride = 2 * args.p_stride;
  const std::uint16_t* p = reinterpret_cast<const std::uint16_t*>(args.p) + row * p_stride;
  float* o = args.o + row * args.o_stride + d;
  sums.load(args.l + row, o, args.o_stride);
  for (std::int64_t j = keys.first; j < keys.last;) {
    const Bf16* v = row_of<Bf16>(args.v, j) + d;
    const std::int64_t end = group_end(args.v, j), stop = end < keys.last ? end : keys.last;
    for (; j < stop; j += 2, v += 2 * args.v.stride) {
      ahead.fetch();
      if constexpr (std::is_same_v<Sees, EveryKey>) {
        value.load(v, args.v.stride, left);
      } else {
        const bool first = sees(j), second = sees(j + 1);
        if (!first && !second) continue;
        value.load_seen(v, args.v.stride, left, first, second);
      }
      sums.template add<kLast>(value.x, value.y, p + j, p_stride);
    }
  }
  sums.template store<kLast>(args.l + row, o, args.o_stride);
}

template <int R, class Sees>
void add_pairs(const DecodeValuesArgs& args, std::int64_t row, PairRange keys, RowFetcher& ahead, Sees sees) {
  for (std::int64_t d = 0; d < args.v_dim; d += kDims) {
    const std::int64_t left = args.v_dim - d;
    if (left > kDims) {
      add_pairs<R, 4, false, false>(args, row, keys, d, ahead, sees);
    } else if (left == kDims) {
      add_pairs<R, 4, false, true>(args, row, keys, d, ahead, sees);
    } else if (left > 3 * V::kLanes) {
      add_pairs<R, 4, true, true>(args, row, keys, d, ahead, sees);
    } else if (left > 2 * V::kLanes) {
      add_pairs<R, 3, true, true>(args, row, keys, d, ahead, sees);
    } else if (left > V::kLanes) {
      add_pairs<R, 2, true, true>(args, row, keys, d, ahead, sees);
    } else {
      add_pairs<R, 1, true, true>(args, row, keys, d, ahead, sees);
    }
  }
}

/// Keys [j0, j1), j0 even. A pair's key that a row does not see must not affect the row: 0 * NaN is NaN.
template <int R>
void add_visible_pairs(const DecodeValuesArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                       RowFetcher& ahead) {
  bool all = j1 % 2 == 0;
  for (int r = 0; r < R; ++r) all = all && sees_all(args.runs[row + r], j0, j1);
  if (all) return add_pairs<R>(args, row, {j0, j1}, ahead, EveryKey{});
  for (int r = 0; r < R; ++r) {
    const KeyRuns& runs = args.runs[row + r];
    const SomeKeys sees{runs.run, runs.run + runs.count};
    if (runs.count > 0) add_pairs<1>(args, row + r, {j0, j1 + j1 % 2}, ahead, sees);
  }
}

}  // namespace

void decode_bf16_avx512_bf16_scores(const DecodeScoresArgs& args) noexcept {
  decode_scores<V, Bf16>(args);
}
void decode_bf16_avx512_bf16_softmax(const DecodeSoftmaxArgs& args) noexcept {
  decode_softmax<V>(args);
}
void decode_bf16_avx512_bf16_add_values(const DecodeValuesArgs& args) noexcept {
  const std::int64_t passes = ((args.v_dim + kDims - 1) / kDims) * ((args.rows + kRowGroup - 1) / kRowGroup);
  RowFetcher ahead(args.rows_ahead, args.fetch.values, 2, passes);
  const std::int64_t keys = keys_together<Bf16>(args);
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += keys) {
    const std::int64_t j1 = j0 + keys < args.kv ? j0 + keys : args.kv;
    for_row_groups<kRowGroup>(
        args.rows, [&]<int R>(std::int64_t row) { add_visible_pairs<R>(args, row, j0, j1, ahead); });
  }
}

}  // namespace kumiko::kernels
