// SPDX-License-Identifier: Apache-2.0
// decode.h's product f16: keys in the lanes of two vectors for the scores, dims for the values.
#include "kernels/softmax/arm_sve512_half.h"

#include "kernels/decode/arm_sve512_half_scores.h"
#include "kernels/decode/arm_sve512_values.h"
#include "kernels/decode/softmax.h"

namespace kumiko::kernels {
namespace {

using V = Sve512;
using H = Sve512Half;

/// P V of one block: for the rows that see some of it, over the keys from the first to the last that one of
/// them sees.
struct HalfValues {
  static constexpr std::int64_t kDims = 4 * H::kLanes;
  static constexpr std::uint16_t kLimit = 0x5c00;  ///< the magnitude of kHalfValueLimit
  static_assert(kHalfValueLimit == 256.0f);
  static H::Bits within_limit(H::Bits x) {
    const svbool_t within = svcmple_n_u16(H::all(), H::magnitude(x), kLimit);
    return svsel_u16(within, x, svdup_u16(0));
  }

  const DecodeValuesArgs& args;
  std::int64_t rows = 0, first, last = 0;
  std::int64_t row[kMaxDecodeRows];
  bool is_any_large = false;                                // beyond kHalfValueLimit
  alignas(64) F16 first_sums[kMaxDecodeRows][kMaxHeadDim];  // of a pair's first chain

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

  /// Whether a value of keys [j, end) is beyond the limit. They are read here for the first time, with lines
  /// fetched ahead, unless ahead is nullptr.
  bool is_large(std::int64_t j, std::int64_t end, RowFetcher* ahead) const {
    const std::int64_t lines = lines_of_row(args.v_dim * 2), whole = args.v_dim / kDims * kDims;
    H::Bits of[4] = {svdup_u16(0), svdup_u16(0), svdup_u16(0), svdup_u16(0)};
    while (j < end) {
      const F16* value = row_of<F16>(args.v, j);
      const std::int64_t group = group_end(args.v, j), stop = group < end ? group : end;
      for (; j < stop; ++j, value += args.v.stride) {
        for (std::int64_t i = 0; i < lines && ahead; ++i) ahead->fetch_line();
        for (std::int64_t d = 0; d < whole; d += kDims) {
#pragma GCC unroll 4
          for (int n = 0; n < 4; ++n)
            of[n] = svmax_u16_x(H::all(), of[n], H::magnitude(H::load_bits(value + d + n * H::kLanes)));
        }
        for (std::int64_t d = whole; d < args.v_dim; d += H::kLanes)
          of[0] = svmax_u16_x(H::all(), of[0], H::magnitude(H::load_bits(value + d, args.v_dim - d)));
      }
    }
    return svmaxv_u16(H::all(), svmax_u16_x(H::all(), svmax_u16_x(H::all(), of[0], of[1]),
                                            svmax_u16_x(H::all(), of[2], of[3]))) > kLimit;
  }

  /// Which chain of a pair: the only one, the first of two, or the second of two.
  enum class Chain { alone, first, second };

  /// One chain of R rows and N vectors of dims: keys [j, end).
  /// kLarge: leaves out values beyond kHalfValueLimit.
  template <int R, int N, bool kLarge>
  void add_chain(const std::int64_t* of, std::int64_t d, std::int64_t j, std::int64_t end, Chain which) {
    H::Reg chain[R][N];
    make_chain<R, N, kLarge>(chain, of, d, j, end);
    end_chain<R, N>(chain, of, d, which);
  }
  template <int R, int N, bool kLarge>
  [[gnu::always_inline]] void make_chain(H::Reg (&chain)[R][N], const std::int64_t* of, std::int64_t d,
                                         std::int64_t j, std::int64_t end) const {
    const F16* weights[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      weights[r] = p(of[r]);
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) chain[r][n] = H::zero();
    }
    for (; j < end; ++j) {
      const F16* const value = row_of<F16>(args.v, j) + d;
      H::Reg x[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        const F16* const at = value + n * H::kLanes;
        const H::Bits bits = N > 1 ? H::load_bits(at) : H::load_bits(at, args.v_dim - d);
        x[n] = svreinterpret_f16_u16(kLarge ? within_limit(bits) : bits);
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        const H::Reg factor = H::set1(weights[r][j]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) chain[r][n] = H::fma(factor, x[n], chain[r][n]);
      }
    }
  }
  template <int R, int N>
  [[gnu::always_inline]] void end_chain(H::Reg (&chain)[R][N], const std::int64_t* of, std::int64_t d,
                                        Chain which) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      float* const o = args.o + of[r] * args.o_stride + d;
      F16* const kept = first_sums[of[r]] + d;
      if (which == Chain::first) {
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) H::store(kept + n * H::kLanes, chain[r][n]);
        continue;
      }
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) {
        if (which == Chain::second) chain[r][n] = H::add(chain[r][n], H::load(kept + n * H::kLanes));
        float* const at = o + n * H::kLanes;
        V::store(at, V::add(V::load(at), H::low(chain[r][n])));
        V::store(at + V::kLanes, V::add(V::load(at + V::kLanes), H::high(chain[r][n])));
      }
    }
  }

  template <bool kLarge>
  void add_chain(std::int64_t j, std::int64_t end, Chain which) {
    for_row_groups<4>(rows, [&]<int R>(std::int64_t r) {
      std::int64_t d = 0;
      for (; d + kDims <= args.v_dim; d += kDims) add_chain<R, 4, kLarge>(row + r, d, j, end, which);
      for (; d < args.v_dim; d += H::kLanes) add_chain<R, 1, kLarge>(row + r, d, j, end, which);
    });
  }
  void add_chains(RowFetcher& ahead) {
    bool has_first = false;
    const bool has_four_rows = args.v_dim % kDims == 0 && rows >= 4 && row[3] - row[0] == 3;
    for (std::int64_t j = first, end = 0; j < last; j = end) {
      end = (args.first_key + j) / kHalfChain * kHalfChain + kHalfChain - args.first_key;
      if (end > last) end = last;
      const bool is_second = (args.first_key + j) / kHalfChain % 2 != 0;
      const Chain which =
          is_second ? (has_first ? Chain::second : Chain::alone) : (end < last ? Chain::first : Chain::alone);
      has_first = which == Chain::first;
      if (has_four_rows) {
        add_checked_chain(j, end, which, ahead);
      } else if (is_large(j, end, &ahead)) {
        is_any_large = true;
        add_chain<true>(j, end, which);
      } else {
        add_chain<false>(j, end, which);
      }
    }
  }

  /// add_chain() that looks for large values while it multiplies: a sum of squares is an infinity or a NaN if
  /// a value is beyond the limit. Many smaller values, or one at the limit, can make it one, too: then
  /// is_large() looks again.
  void add_checked_chain(std::int64_t j, std::int64_t end, Chain which, RowFetcher& ahead) {
    for (std::int64_t d = 0; d < args.v_dim; d += kDims) {
      alignas(64) F16 chain[4][kDims], squares[4][H::kLanes];
      clear(chain[0], 16);
      clear(squares[0], 4);
      multiply_four(decode_f16_sve512_values_and_squares, row, d, j, end, chain, squares, 1, ahead);
      H::Bits most = svdup_u16(0);
      for (const auto& of : squares) most = svmax_u16_x(H::all(), most, H::magnitude(H::load_bits(of)));
      if (svmaxv_u16(H::all(), most) >= 0x7c00 && is_large(j, end, nullptr)) {
        is_any_large = true;
        for_row_groups<4>(rows,
                          [&]<int R>(std::int64_t r) { add_chain<R, 4, true>(row + r, d, j, end, which); });
        continue;
      }
      end_four(chain, row, d, which);
      for_row_groups<4>(rows - 4, [&]<int R>(std::int64_t r) {
        const std::int64_t* const of = row + 4 + r;
        if (R == 4 && of[3] - of[0] == 3) {
          clear(chain[0], 16);
          multiply_four(decode_f16_sve512_values, of, d, j, end, chain, squares, 0, ahead);
          end_four(chain, of, d, which);
        } else {
          add_chain<R, 4, false>(of, d, j, end, which);
        }
      });
    }
  }
  static void clear(F16* to, int vectors) {
    for (int i = 0; i < vectors; ++i) H::store(to + i * H::kLanes, H::zero());
  }
  /// Multiplies four consecutive rows, from of[0] on, by kDims dims.
  void multiply_four(void (*values)(const ValueKeys*), const std::int64_t* of, std::int64_t d, std::int64_t j,
                     std::int64_t end, F16 (*chain)[kDims], F16 (*squares)[H::kLanes], std::int64_t lines,
                     RowFetcher& ahead) const {
    add_keys_in_step<F16>(args.v, j, end, [&](const F16* v, std::int64_t key, std::int64_t keys) {
      const ValueKeys steps{
          v + d,     args.v.stride * 2, p(of[0]) + key, args.p_stride * 4, keys, lines, chain,
          kDims * 2, squares,           &ahead};
      values(&steps);
    });
  }
  void end_four(const F16 (&chain)[4][kDims], const std::int64_t* of, std::int64_t d, Chain which) {
    H::Reg sums[4][4];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) sums[i / 4][i % 4] = H::load(chain[i / 4] + i % 4 * H::kLanes);
    end_chain<4, 4>(sums, of, d, which);
  }

  /// Adds the values that the chains left out.
  void add_large_values() const {
    if (!is_any_large) return;
    for (std::int64_t i = 0; i < rows; ++i) {
      const KeyRuns& runs = args.runs[row[i]];
      float* const o = args.o + row[i] * args.o_stride;
      for (const KeyRun* run = runs.run; run != runs.run + runs.count; ++run) {
        for (std::int64_t j = run->begin; j < run->end; ++j) {
          const F16* const value = row_of<F16>(args.v, j);
          const float weight = to_float(p(row[i])[j]);
          for (std::int64_t d = 0; d < args.v_dim; ++d) {
            if ((value[d].bits & 0x7fff) > kLimit) o[d] = __builtin_fmaf(weight, to_float(value[d]), o[d]);
          }
        }
      }
    }
  }
};

void half_row_softmax(const DecodeSoftmaxArgs& args, std::int64_t row, RowFetcher& ahead) {
  float* const s = args.scores + row * args.score_stride;
  const V::Reg top = hide<V>(s, args.kv, args.begin[row], args.end[row], ahead);
  const V::Reg b = half_reference(top), seen = V::zero_if_minus_infinity(b);
  const V::Reg large = large_half_reference(seen);
  const HalfShift shift(is_any_large_half_reference(seen) ? V::zero() : seen);
  HalfSum sum = svdup_u32(0);
  auto* const p = reinterpret_cast<std::uint16_t*>(s);
  V::Reg found = V::zero();
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    const V::Reg x = V::load(s + j), of = half_exponential(V::sub(x, large), shift);
    asm volatile("" ::: "memory");  // At j = 0 P overwrites these scores: load them first.
    svst1h_u32(svptrue_b32(), p + j, svreinterpret_u32_f16(svcvt_f16_f32_x(svptrue_b32(), of)));
    found = V::fma(of, of, found);
    sum = add_half_exponential(sum, of);
  }
  // All lanes of the last vector are in `sum`, also those past kv.
  const std::int64_t keys = (args.kv + V::kLanes - 1) / V::kLanes * V::kLanes;
  const HalfSum total = half_sum(svdup_u32(static_cast<std::uint32_t>(svaddv_u32(svptrue_b32(), sum))), keys);
  const HalfReference of(b, total, V::set1(args.m[row]), V::set1(args.l[row]));
  V::store_first(args.m + row, 1, of.m);
  V::store_first(args.l + row, 1, V::any_nan(found) ? V::set1(__builtin_nanf("")) : of.l);
  float* const o = args.o + row * args.o_stride;
  for (std::int64_t d = 0; d < args.v_dim; d += V::kLanes) V::store(o + d, V::mul(V::load(o + d), of.alpha));
  const H::ShiftBits places = svdup_lane_s16(svreinterpret_s16_s32(of.places), 0);
  for (std::int64_t j = 0; j < args.kv; j += H::kLanes) {
    auto* const at = reinterpret_cast<F16*>(p) + j;
    H::store(at, H::scale(H::load(at), places));
  }
}

}  // namespace

void decode_f16_sve512_half_scores(const DecodeScoresArgs& args) noexcept {
  // 32 rows are transposed at a time: fetches have to be that far ahead at least.
  const std::int64_t span = H::kLanes * args.dim * 2 + 4096, at_once = HalfKeys::at_once(args.dim);
  RowFetcher ahead(args.rows_ahead, span > args.fetch.keys ? span : args.fetch.keys, 1, 1);
  HalfKeys keys(args.dim);
  for (std::int64_t j = 0; j < args.kv; j += at_once) {
    keys.turn(args.k, j, args.kv - j < at_once ? args.kv - j : at_once, ahead);
    for_row_groups<8>(args.rows, [&]<int R>(std::int64_t row) { make_half_scores<R>(args, row, keys, j); });
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
