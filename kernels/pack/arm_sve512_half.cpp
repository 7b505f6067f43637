// SPDX-License-Identifier: Apache-2.0
// pack.h's product f16. Rows are transposed 16 x 32 elements at a time: 64 ZIPs on one pipe and 32 stores,
// 0.24 cycles an element of 13 rows.
#include "kernels/pack/arm_sve512_half.h"

#include "kernels/pack/pack.h"

namespace kumiko::kernels {
namespace {

using V = Sve512;
using H = Sve512Half;
constexpr std::int64_t kHalfMr = 13, kTurned = H::kTurned;

/// The sum of magnitudes, in pack.h's order: 16 chains, then halves.
float magnitudes(const F16* row, std::int64_t dim) {
  V::Reg sum = V::zero();
  for (std::int64_t d = 0; d < dim; d += V::kLanes) {
    const V::Reg x = V::abs(V::load_first(row + d, dim - d));
    sum = V::add(sum, V::select_less(x, V::set1(__builtin_inff()), x, V::zero()));
  }
  alignas(64) float lane[V::kLanes];
  V::store(lane, sum);
  for (int half = 8; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
  }
  return lane[0];
}

constexpr std::uint16_t kLimitBits = 0x5c00;  // kHalfValueLimit
static_assert(kHalfValueLimit == 256.0f);

/// Whether the sums of squares of `columns` dims are finite in f16: no value is then 256 or more. With 16
/// chains no multiply-add waits for another.
template <int kVectors>
bool has_finite_squares(const F16* rows, std::int64_t count, std::int64_t stride, std::int64_t columns) {
  constexpr int kRows = 16 / kVectors;
  H::Reg sum[16];
#pragma GCC unroll 16
  for (auto& s : sum) s = H::zero();
  const auto add = [&](int chain, const F16* row, int v) {
    const H::Reg x = svreinterpret_f16_u16(svld1_vnum_u16(H::first(columns - v * H::kLanes), &row->bits, v));
    sum[chain] = H::fma(x, x, sum[chain]);
  };
  std::int64_t j = 0;
  for (; j + kRows <= count; j += kRows, rows += kRows * stride) {
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) add(i, rows + i / kVectors * stride, i % kVectors);
  }
  for (; j < count; ++j, rows += stride) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) add(v, rows, v);
  }
  H::Reg most = sum[0];
#pragma GCC unroll 16
  for (int i = 1; i < 16; ++i) most = svmax_f16_x(H::all(), most, sum[i]);  // NaN if one is NaN
  constexpr std::uint16_t kInfinityBits = 0x7c00;
  return !svptest_any(H::all(), svcmpge_n_u16(H::all(), svreinterpret_u16_f16(most), kInfinityBits));
}

bool are_ordinary(const F16* rows, std::int64_t count, std::int64_t stride, std::int64_t dim) {
  constexpr std::int64_t kWide = 8 * H::kLanes, kNarrow = 4 * H::kLanes;
  bool known = true;
  for (std::int64_t d = 0; d < dim && known; d += kWide) {
    known = dim - d <= kNarrow ? has_finite_squares<4>(rows + d, count, stride, dim - d)
                               : has_finite_squares<8>(rows + d, count, stride, dim - d);
  }
  if (known) return true;
  H::Bits most = svdup_u16(0);
  for (std::int64_t j = 0; j < count; ++j) {
    for (std::int64_t d = 0; d < dim; d += H::kLanes)
      most = svmax_u16_x(H::all(), most, H::magnitude(H::load_bits(rows + j * stride + d, dim - d)));
  }
  return svmaxv_u16(H::all(), most) <= kLimitBits;
}

}  // namespace

void pack_f16_sve512_half_query(const PackQueryArgs& args) noexcept {
  for (std::int64_t n = 0; n < args.nr; n += kTurned) {
    float factor[kTurned];
    for (std::int64_t i = 0; i < kTurned; ++i) {
      const bool used = n + i < args.rows_used;
      const HalfRange range =
          used ? half_query_range(magnitudes(static_cast<const F16*>(args.rows[n + i]), args.dim), args.scale)
               : HalfRange{1.0f, 1.0f};
      factor[i] = range.element;
      args.range[n + i] = range.score;
    }
    for (std::int64_t d = 0; d < args.dim; d += H::kLanes) {
      H::Bits x[kTurned];
      for (std::int64_t i = 0; i < kTurned; ++i) {
        x[i] = svdup_u16(0);
        if (n + i >= args.rows_used) continue;
        const F16* const row = static_cast<const F16*>(args.rows[n + i]) + d;
        const V::Reg by = V::set1(factor[i]);
        x[i] = H::join(V::mul(V::load_first(row, args.dim - d), by),
                       V::mul(V::load_first(row + V::kLanes, args.dim - d - V::kLanes), by));
      }
      H::transpose(x);
      H::store_columns(static_cast<F16*>(args.dst) + d * args.nr + n, args.nr, kTurned, args.dim - d, x);
    }
  }
}

void pack_f16_sve512_half_key(const PackKeyArgs& args) noexcept {
  const F16* const src = static_cast<const F16*>(args.src);
  for (std::int64_t j = 0; j < args.rows; j += kHalfMr) {
    F16* const panel = static_cast<F16*>(args.dst) + j * args.dim;
    int exponent[kHalfMr];
    for (std::int64_t i = 0; i < kHalfMr; ++i) {
      exponent[i] = j + i < args.rows ? half_key_exponent(src + (j + i) * args.stride, args.dim) : 0;
      args.range[j + i] = half_key_range(exponent[i]);
    }
    const std::int64_t rows = args.rows - j < kHalfMr ? args.rows - j : kHalfMr;
    for (std::int64_t d = 0; d < args.dim; d += H::kLanes)
      turn_keys(src + j * args.stride + d, args.stride, rows, exponent, args.dim - d, panel + d * kHalfMr,
                kHalfMr);
  }
}

bool pack_f16_sve512_half_value(const PackValueArgs& args) noexcept {
  const F16* const src = static_cast<const F16*>(args.src);
  const std::int64_t rows = args.rows, stride = args.stride;
  if (!args.dst) return are_ordinary(src, rows, stride, args.dim);
  static_assert(2 * kHalfMr <= H::kLanes);
  constexpr int kChains = 4;  // of maxima: a single one takes its latency for each row, 4 cycles
  H::Bits most[kChains];
#pragma GCC unroll 4
  for (auto& m : most) m = svdup_u16(0);
  for (std::int64_t d = 0; d < args.dim; d += kHalfMr) {
    F16* const panel = static_cast<F16*>(args.dst) + d * rows;
    const std::int64_t dims = args.dim - d < kHalfMr ? args.dim - d : kHalfMr;
    const svbool_t one = H::first(dims), written = H::first(kHalfMr), both_written = H::first(2 * kHalfMr),
                   other = svbic_b_z(H::all(), H::first(kHalfMr + dims), written);
    const auto store = [](std::uint16_t* to, svbool_t lanes, H::Bits x, H::Bits& m) {
      m = svmax_u16_x(H::all(), m, H::magnitude(x));
      svst1_u16(lanes, to, x);
    };
    // Two rows a store, because a store takes both load pipes: the second row is loaded into the lanes after
    // the first one's.
    const std::uint16_t *first = &src[d].bits, *second = first + stride - kHalfMr;
    std::uint16_t* to = &panel->bits;
    std::int64_t j = 0;
    for (; j + 2 * kChains <= rows; j += 2 * kChains) {
#pragma GCC unroll 4
      for (int i = 0; i < kChains; ++i) {
        store(to, both_written, svorr_u16_x(H::all(), svld1_u16(one, first), svld1_u16(other, second)),
              most[i]);
        first += 2 * stride, second += 2 * stride, to += 2 * kHalfMr;
      }
    }
    for (; j < rows; ++j, first += stride, to += kHalfMr) store(to, written, svld1_u16(one, first), most[0]);
  }
  const H::Bits all_most =
      svmax_u16_x(H::all(), svmax_u16_x(H::all(), most[0], most[1]), svmax_u16_x(H::all(), most[2], most[3]));
  return svmaxv_u16(H::all(), all_most) <= kLimitBits;
}

}  // namespace kumiko::kernels
