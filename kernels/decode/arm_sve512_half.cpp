// SPDX-License-Identifier: Apache-2.0
// decode.h's product f16: keys in the lanes of two vectors for the scores, dims for the values.
#include "kernels/pack/arm_sve512_half.h"

#include "kernels/decode/rows.h"
#include "kernels/decode/softmax.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pack/pack.h"
#include "kernels/softmax/arm_sve512_half.h"

namespace kumiko::kernels {
namespace {

using V = Sve512;
using H = Sve512Half;

constexpr std::int64_t kKeys = 64;  // whose scores are made together
constexpr int kKeyVectors = kKeys / H::kLanes;

/// Up to kKeys keys in the lanes, a vector of dims at a time.
struct TurnedKeys {
  const F16* group[kKeys / H::kTurned];
  std::int64_t stride, keys;
  int exponent[kKeys];
  alignas(64) float range[kKeys];
  alignas(64) F16 tile[H::kLanes * kKeys];

  TurnedKeys(const RowGroups& rows, std::int64_t first, std::int64_t count, std::int64_t dim,
             RowFetcher& ahead)
      : stride(rows.stride), keys(count) {
    for (std::int64_t i = 0; i < kKeys; i += H::kTurned)
      group[i / H::kTurned] = row_of<F16>(rows, i < keys ? first + i : first);
    const std::int64_t lines = lines_of_row(dim * 2);
    for (std::int64_t i = 0; i < kKeys; ++i) {
      for (std::int64_t line = 0; line < lines; ++line) ahead.fetch_line();
      exponent[i] = i < keys ? half_key_exponent(group[i / H::kTurned] + i % H::kTurned * stride, dim) : 0;
      range[i] = half_key_range(exponent[i]);
    }
  }
  void turn(std::int64_t d, std::int64_t dims) {
    for (std::int64_t i = 0; i < kKeys; i += H::kTurned) {
      const std::int64_t left = keys - i;
      turn_keys(group[i / H::kTurned] + d, stride, left < H::kTurned ? left : H::kTurned, exponent + i, dims,
                tile + i, kKeys);
    }
  }
};

/// Scores of R rows.
template <int R>
void score_half_rows(const DecodeScoresArgs& args, std::int64_t row, std::int64_t first, TurnedKeys& keys) {
  const F16* const q = reinterpret_cast<const F16*>(args.q) + row;
  H::Reg chain[R][kKeyVectors];
  alignas(64) float sum[R][kKeys] = {};
  const auto start = [&] {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kKeyVectors; ++v) chain[r][v] = H::zero();
    }
  };
  start();
  for (std::int64_t d = 0; d < args.dim; d += H::kLanes) {
    const std::int64_t dims = args.dim - d < H::kLanes ? args.dim - d : H::kLanes;
    keys.turn(d, dims);
    for (std::int64_t i = 0; i < dims; ++i) {
      H::Reg x[kKeyVectors];
#pragma GCC unroll 2
      for (int v = 0; v < kKeyVectors; ++v) x[v] = H::load(keys.tile + i * kKeys + v * H::kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const H::Reg factor = H::set1(q[(d + i) * args.q_stride + r]);
#pragma GCC unroll 2
        for (int v = 0; v < kKeyVectors; ++v) chain[r][v] = H::fma(x[v], factor, chain[r][v]);
      }
    }
    const std::int64_t done = d + dims;
    if (done % kHalfChain != 0 && done < args.dim) continue;
    const bool is_first = d / kHalfChain == 0;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kKeyVectors; ++v) {
        float* const at = sum[r] + v * H::kLanes;
        const V::Reg low = H::low(chain[r][v]), high = H::high(chain[r][v]);
        V::store(at, is_first ? low : V::add(V::load(at), low));
        V::store(at + V::kLanes, is_first ? high : V::add(V::load(at + V::kLanes), high));
      }
    }
    start();
  }
  for (int r = 0; r < R; ++r) {
    float* const out = args.scores + (row + r) * args.score_stride + first;
    const V::Reg range = V::set1(args.range[row + r]);
    for (std::int64_t i = 0; i < kKeys; i += V::kLanes)
      V::store(out + i, V::mul(V::mul(V::load(sum[r] + i), range), V::load(keys.range + i)));
  }
}

/// Values of one block: rows that see some of it, and keys that one of them sees.
struct HalfValues {
  const DecodeValuesArgs& args;
  std::int64_t rows = 0, first, last = 0;
  std::int64_t row[kMaxDecodeRows];
  H::Bits most = svdup_u16(0);  // magnitudes

  explicit HalfValues(const DecodeValuesArgs& of) : args(of), first(of.kv) {
    for (std::int64_t r = 0; r < args.rows; ++r) {
      const KeyRuns& runs = args.runs[r];
      if (runs.count == 0) continue;
      row[rows++] = r;
      if (runs.run[0].begin < first) first = runs.run[0].begin;
      if (runs.run[runs.count - 1].end > last) last = runs.run[runs.count - 1].end;
    }
  }
  const F16* p(std::int64_t r) const { return reinterpret_cast<const F16*>(args.p + r * args.p_stride); }

  /// One chain of R rows and N vectors of dims: keys [j, end). The first pass over dims has the weights, too.
  template <int R, int N>
  void add_chain(const std::int64_t* of, std::int64_t d, std::int64_t j, std::int64_t end, RowFetcher* ahead,
                 std::int64_t lines) {
    const H::Bits limit = svdup_u16(0x5c00);
    static_assert(kHalfValueLimit == 256.0f);
    H::Reg chain[R][N];
    V::Reg weight[R];
    const F16* weights[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      weight[r] = V::set1(args.l[of[r]]);
      weights[r] = p(of[r]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) chain[r][n] = H::zero();
    }
    for (; j < end; ++j) {
      const F16* const value = row_of<F16>(args.v, j) + d;
      for (std::int64_t i = 0; ahead && i < lines; ++i) ahead->fetch_line();
      H::Reg x[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const H::Bits bits = H::load_bits(value + n * H::kLanes, args.v_dim - d - n * H::kLanes),
                      magnitude = H::magnitude(bits);
        most = svmax_u16_x(H::all(), most, magnitude);
        x[n] = svreinterpret_f16_u16(svsel_u16(svcmple_u16(H::all(), magnitude, limit), bits, svdup_u16(0)));
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const H::Reg factor = H::set1(weights[r][j]);
        weight[r] = V::add(weight[r], svcvt_f32_f16_x(svptrue_b32(), factor));
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) chain[r][n] = H::fma(factor, x[n], chain[r][n]);
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      if (d == 0) V::store_first(args.l + of[r], 1, weight[r]);
      float* const o = args.o + of[r] * args.o_stride + d;
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        float* const at = o + n * H::kLanes;
        V::store(at, V::add(V::load(at), H::low(chain[r][n])));
        V::store(at + V::kLanes, V::add(V::load(at + V::kLanes), H::high(chain[r][n])));
      }
    }
  }

  void add_chains(RowFetcher& ahead) {
    const std::int64_t lines = lines_of_row(args.v_dim * 2);
    for (std::int64_t j = first, end = 0; j < last; j = end) {
      end = (args.first_key + j) / kHalfChain * kHalfChain + kHalfChain - args.first_key;
      if (end > last) end = last;
      for_row_groups<4>(rows, [&]<int R>(std::int64_t r) {
        std::int64_t d = 0;
        for (; d + 3 * H::kLanes < args.v_dim; d += 4 * H::kLanes)
          add_chain<R, 4>(row + r, d, j, end, r == 0 && d == 0 ? &ahead : nullptr, lines);
        for (; d < args.v_dim; d += H::kLanes)
          add_chain<R, 1>(row + r, d, j, end, r == 0 && d == 0 ? &ahead : nullptr, lines);
      });
    }
  }

  /// Values that the chains left out.
  void add_large_values() const {
    if (svmaxv_u16(H::all(), most) <= 0x5c00) return;
    for (std::int64_t i = 0; i < rows; ++i) {
      const KeyRuns& runs = args.runs[row[i]];
      float* const o = args.o + row[i] * args.o_stride;
      for (const KeyRun* run = runs.run; run != runs.run + runs.count; ++run) {
        for (std::int64_t j = run->begin; j < run->end; ++j) {
          const F16* const value = row_of<F16>(args.v, j);
          const float weight = to_float(p(row[i])[j]);
          for (std::int64_t d = 0; d < args.v_dim; ++d) {
            if ((value[d].bits & 0x7fff) > 0x5c00) o[d] = __builtin_fmaf(weight, to_float(value[d]), o[d]);
          }
        }
      }
    }
  }
};

void half_row_softmax(const DecodeSoftmaxArgs& args, std::int64_t row, RowFetcher& ahead) {
  float* const s = args.scores + row * args.score_stride;
  const V::Reg top = hide<V>(s, args.kv, args.begin[row], args.end[row], ahead);
  const V::Reg shift = V::zero_if_minus_infinity(top);
  HalfSum sum = svdup_u32(0);
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    const V::Reg p = V::exp2(V::sub(V::load(s + j), shift));
    V::store(s + j, p);
    sum = add_half_probability(sum, p);
  }
  const HalfSum total = svdup_u32(static_cast<std::uint32_t>(svaddv_u32(svptrue_b32(), sum)));
  const V::Reg old = V::set1(args.m[row]), m = V::max(V::sub(top, half_headroom(total)), old);
  const V::Reg m_shift = V::zero_if_minus_infinity(m), alpha = V::exp2(V::sub(old, m_shift)),
               factor = V::exp2(V::sub(top, m_shift));
  V::store_first(args.m + row, 1, m);
  V::store_first(args.l + row, 1, V::mul(V::set1(args.l[row]), alpha));
  float* const o = args.o + row * args.o_stride;
  for (std::int64_t d = 0; d < args.v_dim; d += V::kLanes) V::store(o + d, V::mul(V::load(o + d), alpha));
  auto* const p = reinterpret_cast<std::uint16_t*>(s);
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    const V::Reg x = V::mul(V::load(s + j), factor);
    asm volatile("" ::: "memory");  // P of the first keys overwrites their own S.
    store_half_weight(p + j, x);
  }
}

}  // namespace

void decode_f16_sve512_half_scores(const DecodeScoresArgs& args) noexcept {
  const std::int64_t span = kKeys * args.dim * 2 + 4096;
  RowFetcher ahead(args.rows_ahead, span > args.fetch.keys ? span : args.fetch.keys, 1, 1);
  for (std::int64_t j = 0; j < args.kv; j += kKeys) {
    TurnedKeys keys(args.k, j, args.kv - j < kKeys ? args.kv - j : kKeys, args.dim, ahead);
    for_row_groups<8>(args.rows, [&]<int R>(std::int64_t row) { score_half_rows<R>(args, row, j, keys); });
  }
}

void decode_f16_sve512_half_softmax(const DecodeSoftmaxArgs& args) noexcept {
  RowFetcher between = fetcher_between<V>(args);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    if (args.begin[row] < args.end[row]) half_row_softmax(args, row, between);
  }
}

void decode_f16_sve512_half_add_values(const DecodeValuesArgs& args) noexcept {
  RowFetcher ahead(args.rows_ahead, args.fetch.values, 1, 1);
  HalfValues values(args);
  values.add_chains(ahead);
  values.add_large_values();
}

}  // namespace kumiko::kernels
