// SPDX-License-Identifier: Apache-2.0
// Decode in products of bf16 pairs: two dims of a key, two keys of a value. Half the work a key of
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

/// The probabilities of a row, bf16, over its scores.
const std::uint16_t* probabilities_of(const DecodeBlockArgs& args, std::int64_t row) {
  return reinterpret_cast<const std::uint16_t*>(args.scores + row * args.score_stride);
}

void row_softmax_pairs(const DecodeBlockArgs& args, std::int64_t row) {
  float* s = args.scores + row * args.score_stride;
  std::uint16_t* p = reinterpret_cast<std::uint16_t*>(s);
  const std::int32_t begin = args.begin[row], end = args.end[row];
  const auto scale = V::set1(args.terms ? 1.0f : args.scale);  // the terms have it in them
  auto top = V::set1(-__builtin_inff());
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    const auto x = V::keep_between(V::load(s + j), begin, end, static_cast<std::int32_t>(j));
    V::store(s + j, x);
    top = V::max(x, top);
  }
  const auto old = V::set1(args.m[row]);
  const auto m = V::max(V::mul(V::set1(V::reduce_max(top)), scale), old);
  const auto shift = V::zero_if_minus_infinity(m);
  const auto alpha = V::exp2(V::sub(old, shift)), minus_shift = V::sub(V::zero(), shift);
  V::store_first(args.m + row, 1, m);
  V::store_first(args.l + row, 1, V::mul(V::set1(args.l[row]), alpha));
  float* o = args.o + row * args.o_stride;
  for (std::int64_t d = 0; d < args.v_dim; d += V::kLanes) V::store(o + d, V::mul(V::load(o + d), alpha));
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes)
    V::store_bf16(p + j, V::exp2_short(V::fma(V::load(s + j), scale, minus_shift)));
}

/// 32 dims of two keys side by side: dims 0-3, 8-11, 16-19, 24-27 in low, the others in high.
void interleave(V::Reg a, V::Reg b, V::Reg& low, V::Reg& high) {
  low = _mm512_castsi512_ps(_mm512_unpacklo_epi16(V::bits(a), V::bits(b)));
  high = _mm512_castsi512_ps(_mm512_unpackhi_epi16(V::bits(a), V::bits(b)));
}
/// 32 sums in that order, from and to memory in the order of dims. N vectors are there, or both.
template <int N>
void load_split(bool both, const float* o, V::Reg& low, V::Reg& high) {
  const auto a = V::load(o), b = both || N > 1 ? V::load(o + V::kLanes) : V::zero();
  low = _mm512_shuffle_f32x4(a, b, 0x88);
  high = _mm512_shuffle_f32x4(a, b, 0xdd);
}
template <int N>
void store_joined(bool both, float* o, V::Reg low, V::Reg high) {
  const auto a = _mm512_shuffle_f32x4(low, high, 0x44), b = _mm512_shuffle_f32x4(low, high, 0xee);
  V::store(o, _mm512_shuffle_f32x4(a, a, 0xd8));
  if (both || N > 1) V::store(o + V::kLanes, _mm512_shuffle_f32x4(b, b, 0xd8));
}

/// Which keys a row sees: all, or those of an interval and a mask.
struct EveryKey {};
struct SomeKeys {
  std::int64_t begin, end;
  const ScoreRowArgs* masked;  ///< nullptr: no mask
  bool operator()(std::int64_t j) const {
    return j >= begin && j < end && (!masked || masked->mask[j * masked->terms->mask_stride] != 0);
  }
};

/// 32 dims of a row, the last load of a pass perhaps fewer.
template <bool kPartial>
V::Reg load_dims(const Bf16* from, std::int64_t dims) {
  return kPartial ? V::load_first(from, dims) : V::load(from);
}

/// O += P V and l += P over the pairs of keys from j0 up to j1, both even, for R rows, dims [d, ...) in
/// kVectors of sums. kPartial: v_dim ends within the last load. A key that is not seen is not read.
template <int R, int kVectors, bool kPartial, class Sees>
void add_pairs(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
               std::int64_t d, RowFetcher& ahead, Sees sees) {
  constexpr int kLoads = (kVectors + 1) / 2;
  const std::int64_t left = args.v_dim - d - (kLoads - 1) * kElements<V>;
  const bool last =
      args.v_dim - d <= kDims;  // l belongs to the row, not to one pass of dims: the last one keeps it
  V::Reg low[R][kLoads], high[R][kLoads], weight[R];
  const std::uint16_t* p = probabilities_of(args, row);
  const std::int64_t p_stride = 2 * args.score_stride;
  float* o = args.o + row * args.o_stride + d;
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    weight[r] = V::set1(args.l[row + r]);
#pragma GCC unroll 16
    for (int n = 0; n < kLoads; ++n)
      load_split<kVectors - 2 * (kLoads - 1)>(n + 1 < kLoads, o + r * args.o_stride + 2 * n * V::kLanes,
                                              low[r][n], high[r][n]);
  }
  const auto ones = V::pair_of_ones();
  const Bf16* v = static_cast<const Bf16*>(args.v) + j0 * args.v_stride + d;
  for (std::int64_t j = j0; j < j1; j += 2, v += 2 * args.v_stride) {
    ahead.fetch();
    V::Reg x[kLoads], y[kLoads];
    if constexpr (std::is_same_v<Sees, EveryKey>) {
#pragma GCC unroll 16
      for (int n = 0; n < kLoads - 1; ++n)
        interleave(V::load(v + n * kElements<V>), V::load(v + args.v_stride + n * kElements<V>), x[n], y[n]);
      const Bf16* tail = v + (kLoads - 1) * kElements<V>;
      interleave(load_dims<kPartial>(tail, left), load_dims<kPartial>(tail + args.v_stride, left),
                 x[kLoads - 1], y[kLoads - 1]);
    } else {
      const bool first = sees(j), second = sees(j + 1);
      if (!first && !second) continue;
      for (int n = 0; n < kLoads; ++n) {
        const Bf16* at = v + n * kElements<V>;
        const std::int64_t dims = n + 1 < kLoads ? kElements<V> : left;
        interleave(first ? V::load_first(at, dims) : V::zero(),
                   second ? V::load_first(at + args.v_stride, dims) : V::zero(), x[n], y[n]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      std::int32_t bits;
      __builtin_memcpy(&bits, p + r * p_stride + j, sizeof bits);
      const auto pair = _mm512_castsi512_ps(_mm512_set1_epi32(bits));
      weight[r] = V::product(pair, ones, weight[r]);
#pragma GCC unroll 16
      for (int n = 0; n < kLoads; ++n) {
        low[r][n] = V::product(x[n], pair, low[r][n]);
        high[r][n] = V::product(y[n], pair, high[r][n]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
    if (last) V::store_first(args.l + row + r, 1, weight[r]);
#pragma GCC unroll 16
    for (int n = 0; n < kLoads; ++n)
      store_joined<kVectors - 2 * (kLoads - 1)>(n + 1 < kLoads, o + r * args.o_stride + 2 * n * V::kLanes,
                                                low[r][n], high[r][n]);
  }
}

template <int R, class Sees>
void add_pairs(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
               RowFetcher& ahead, Sees sees) {
  for (std::int64_t d = 0; d < args.v_dim; d += kDims) {
    const std::int64_t left = args.v_dim - d;
    if (left >= kDims) {
      add_pairs<R, 4, false>(args, row, j0, j1, d, ahead, sees);
    } else if (left > 3 * V::kLanes) {
      add_pairs<R, 4, true>(args, row, j0, j1, d, ahead, sees);
    } else if (left > 2 * V::kLanes) {
      add_pairs<R, 3, true>(args, row, j0, j1, d, ahead, sees);
    } else if (left > V::kLanes) {
      add_pairs<R, 2, true>(args, row, j0, j1, d, ahead, sees);
    } else {
      add_pairs<R, 1, true>(args, row, j0, j1, d, ahead, sees);
    }
  }
}

/// Keys [j0, j1), j0 even. A pair's key that a row does not see must not touch it: 0 * NaN would.
template <int R>
void add_visible_pairs(const DecodeBlockArgs& args, std::int64_t row, std::int64_t j0, std::int64_t j1,
                       RowFetcher& ahead) {
  const bool masked = args.terms && args.terms->terms->has_mask;
  bool all = !masked && j1 % 2 == 0;
  for (int r = 0; r < R; ++r) all = all && args.begin[row + r] <= j0 && args.end[row + r] >= j1;
  if (all) return add_pairs<R>(args, row, j0, j1, ahead, EveryKey{});
  for (int r = 0; r < R; ++r) {
    const SomeKeys sees{args.begin[row + r], args.end[row + r], masked ? args.terms + row + r : nullptr};
    if (sees.begin < sees.end) add_pairs<1>(args, row + r, j0, j1 + j1 % 2, ahead, sees);
  }
}

}  // namespace

void decode_bf16_avx512_bf16(const DecodeBlockArgs& args) noexcept {
  for_row_groups<8>(args.rows, [&]<int R>(std::int64_t row) { score_rows<V, Bf16, R>(args, row); });
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] >= args.end[row]) continue;
    if (args.terms) {
      ScoreRowArgs terms = args.terms[row];
      terms.s = args.scores + row * args.score_stride;
      terms.kv = args.kv;
      terms.scale = args.scale;
      args.score_row(terms);
    }
    row_softmax_pairs(args, row);
  }
  const RowRange values(static_cast<const Bf16*>(args.v), args.v_stride, args.v_dim, args.kv);
  const RowRange next_keys(static_cast<const Bf16*>(args.k) + args.kv * args.k_stride, args.k_stride,
                           args.dim, kNoEnd);
  const std::int64_t passes = ((args.v_dim + kDims - 1) / kDims) * ((args.rows + kRowGroup - 1) / kRowGroup);
  RowFetcher ahead(values, next_keys, args.fetch.values, 2, passes, args.fetch.l2);
  for (std::int64_t j0 = 0; j0 < args.kv; j0 += kValueRows) {
    const std::int64_t j1 = j0 + kValueRows < args.kv ? j0 + kValueRows : args.kv;
    for_row_groups<kRowGroup>(
        args.rows, [&]<int R>(std::int64_t row) { add_visible_pairs<R>(args, row, j0, j1, ahead); });
  }
}

}  // namespace kumiko::kernels
