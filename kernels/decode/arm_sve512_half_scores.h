// SPDX-License-Identifier: Apache-2.0
// Scores of decode.h's product f16. Keys are transposed from rows to lanes, 32 keys and 16 dims in a turn,
// which also finds the largest magnitude of each key. Then they are multiplied, 64 or 128 at a time: with
// fewer than 16 sums the latency of nine cycles would be the bound.
#pragma once

#include <cstddef>

#include "kernels/decode/arm_sve512_order.h"
#include "kernels/decode/rows.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pack/arm_sve512_half.h"
#include "kernels/pack/pack.h"

namespace kumiko::kernels {
namespace {

/// Groups of 32 keys. The assembly knows the offsets.
struct TurnedKeys {
  const F16* const* row;  ///< of each key, and kRowsAhead more, which may be read
  std::int64_t dim;
  std::int64_t groups;
  F16* to;              ///< [group][dim rounded up to kTurnDims][32]
  std::uint16_t* most;  ///< out: [group][32] the largest magnitudes
  RowFetcher* ahead;    ///< fetches kTurnLines lines with kTurnDims dims of a group
};
static_assert(offsetof(TurnedKeys, ahead) == 40);
constexpr std::int64_t kTurnDims = 16, kTurnLines = 4, kRowsAhead = 16;

}  // namespace

/// In arm_sve512_half_turn.S.
extern "C" void decode_f16_sve512_turn_keys(const TurnedKeys*) noexcept;

namespace {

/// Up to kMost keys, transposed.
class HalfKeys {
 public:
  using H = Sve512Half;
  static constexpr std::int64_t kMost = 128;
  /// With up to kFewDims dims, kMost keys leave L1 room for their rows; with more dims, kMost / 2 keys are
  /// transposed at a time.
  static constexpr std::int64_t kFewDims = 128;
  static constexpr std::int64_t at_once(std::int64_t dim) { return dim <= kFewDims ? kMost : kMost / 2; }

  explicit HalfKeys(std::int64_t dim)
      : dim_(dim), group_size_((dim + kTurnDims - 1) / kTurnDims * kTurnDims * H::kLanes) {}

  /// Transposes keys [first, first + count) of the block; the lanes past them repeat the last one.
  void turn(const RowGroups& rows, std::int64_t first, std::int64_t count, RowFetcher& ahead) {
    groups_ = (count + 2 * H::kLanes - 1) / (2 * H::kLanes) * 2;
    const F16* row[kMost + kRowsAhead];
    for (std::int64_t i = 0; i < groups_ * H::kLanes; i += kLeastGroup) {
      const F16* at = row_of<F16>(rows, first + (i < count ? i : count - 1));
      for (std::int64_t n = 0; n < kLeastGroup; ++n) {
        row[i + n] = at;
        if (i + n + 1 < count) at += rows.stride;
      }
    }
    for (std::int64_t n = 0; n < kRowsAhead; ++n) row[groups_ * H::kLanes + n] = row[0];
    alignas(64) std::uint16_t most[kMost];
    const TurnedKeys keys{row, dim_, groups_, tile_, most, &ahead};
    decode_f16_sve512_turn_keys(&keys);
    const std::int64_t turns = group_size_ / (kTurnDims * H::kLanes),
                       lines = groups_ * (H::kLanes * lines_of_row(dim_ * 2) - turns * kTurnLines);
    for (std::int64_t i = 0; i < lines; ++i) ahead.fetch_line();
    for (std::int64_t g = 0; g < groups_; ++g) find_exponents(row + g * H::kLanes, most + g * H::kLanes, g);
  }

  std::int64_t groups() const { return groups_; }
  const float* range() const { return range_; }
  const F16* dims(std::int64_t group) const { return tile_ + group * group_size_; }
  std::int64_t group_size() const { return group_size_; }
  /// -e of pack.h for each key.
  H::ShiftBits shift(std::int64_t group) const {
    return svld1_s16(svptrue_b16(), shift_ + group * H::kLanes);
  }

 private:
  void find_exponents(const F16* const* row, std::uint16_t* most, std::int64_t group) {
    H::Bits x = svld1_u16(H::all(), most);
    if (svptest_any(H::all(), svcmpge_n_u16(H::all(), x, 0x7c00))) {  // Infinities and NaN do not count.
      for (std::int64_t i = 0; i < H::kLanes; ++i)
        most[i] = static_cast<std::uint16_t>((half_key_exponent(row[i], dim_) + 15) << 10);
      x = svld1_u16(H::all(), most);
    }
    const svbool_t normal = svcmpge_n_u16(H::all(), x, 0x0400);
    const svint16_t e = svsub_n_s16_z(normal, svreinterpret_s16_u16(svlsr_n_u16_x(H::all(), x, 10)), 15);
    svst1_s16(H::all(), shift_ + group * H::kLanes, svneg_s16_x(H::all(), e));
    store_range(range_ + group * H::kLanes, svunpklo_s32(e));
    store_range(range_ + group * H::kLanes + Sve512::kLanes, svunpkhi_s32(e));
  }
  static void store_range(float* to, svint32_t e) {
    svst1_s32(svptrue_b32(), reinterpret_cast<std::int32_t*>(to),
              svlsl_n_s32_x(svptrue_b32(), svadd_n_s32_x(svptrue_b32(), e, 127), 23));
  }

  std::int64_t dim_, group_size_, groups_ = 0;
  std::int16_t shift_[kMost];
  alignas(64) float range_[kMost];
  alignas(64) F16 tile_[kMost / 2 * kMaxHeadDim];
  static_assert(kMost * kFewDims <= kMost / 2 * kMaxHeadDim);
};

/// Scores of R rows and N vectors of keys, which begin with a group of the transposed keys.
template <int R, int N>
class HalfScores {
 public:
  using H = Sve512Half;
  using V = Sve512;

  HalfScores(const DecodeScoresArgs& args, std::int64_t row, const HalfKeys& keys, std::int64_t group)
      : args_(args),
        q_(reinterpret_cast<const F16*>(args.q) + row),
        row_(row),
        keys_(keys.dims(group)),
        group_size_(keys.group_size()),
        range_(keys.range() + group * H::kLanes) {
    unrolled<N>([&](auto n) __attribute__((always_inline)) { shift_[n] = keys.shift(group + n); });
  }

  /// Writes the scores of the block's keys from `first` on.
  void make(std::int64_t first) {
    for (std::int64_t d = 0; d < args_.dim; d += kHalfPair) {
      Chains chain;
      multiply(chain, d);
      if (d + kHalfChain < args_.dim) {
        keep(chain);
        multiply(chain, d + kHalfChain);
        add_kept(chain);
      }
      end(chain, d, first);
    }
  }

 private:
  struct Chains {
    H::Reg of[R][N];
  };
  [[gnu::always_inline]] void multiply(Chains& chain, std::int64_t d) const {
    const std::int64_t end = d + kHalfChain < args_.dim ? d + kHalfChain : args_.dim, stride = args_.q_stride;
    H::ShiftBits shift[N];
    unrolled<N>([&](auto n) __attribute__((always_inline)) { shift[n] = shift_[n]; });
    unrolled<R * N>([&](auto i) __attribute__((always_inline)) { chain.of[i / N][i % N] = H::zero(); });
    const F16* q = q_ + d * stride;
    const F16* x = keys_ + d * H::kLanes;
    for (; d < end; ++d, q += stride, x += H::kLanes) {
      H::Reg key[N];
      unrolled<N>([&](auto n) __attribute__((always_inline)) {
        key[n] = H::scale(H::load(x + n * group_size_), shift[n]);
      });
      unrolled<R>([&](auto r) __attribute__((always_inline)) {
        const H::Reg factor = H::set1(q[r]);
        unrolled<N>([&](auto n) __attribute__((always_inline)) {
          chain.of[r][n] = plus_product(chain.of[r][n], key[n], factor);
        });
      });
    }
  }
  /// Stores the sums of a pair's first chain.
  [[gnu::always_inline]] void keep(const Chains& chain) {
    unrolled<R * N>([&](auto i) __attribute__((always_inline)) {
      H::store(kept_ + i * H::kLanes, chain.of[i / N][i % N]);
    });
  }
  [[gnu::always_inline]] void add_kept(Chains& chain) const {
    unrolled<R * N>([&](auto i) __attribute__((always_inline)) {
      H::Reg& x = chain.of[i / N][i % N];
      x = H::add(x, H::load(kept_ + i * H::kLanes));
    });
  }
  /// Adds the sums of the pair of chains that begins at dim d to the scores; after the last pair, applies the
  /// ranges.
  [[gnu::always_inline]] void end(const Chains& chain, std::int64_t d, std::int64_t first) const {
    const bool is_last = d + kHalfPair >= args_.dim;
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      float* const out = args_.scores + (row_ + r) * args_.score_stride + first;
      const V::Reg range = V::set1(args_.range[row_ + r]);
      unrolled<2 * N>([&](auto i) __attribute__((always_inline)) {
        const H::Reg of = chain.of[r][i / 2];
        V::Reg x = i % 2 == 0 ? H::low(of) : H::high(of);
        if (d > 0) x = V::add(V::load(out + i * V::kLanes), x);
        if (is_last) x = V::mul(V::mul(x, range), V::load(range_ + i * V::kLanes));
        V::store(out + i * V::kLanes, x);
      });
    });
  }

  const DecodeScoresArgs& args_;
  const F16* const q_;
  const std::int64_t row_;
  const F16* const keys_;
  const std::int64_t group_size_;
  const float* const range_;
  H::ShiftBits shift_[N];
  alignas(64) F16 kept_[R * N * H::kLanes];
};

/// Scores of the transposed keys, which are the block's from `first` on.
template <int R>
void make_half_scores(const DecodeScoresArgs& args, std::int64_t row, const HalfKeys& keys,
                      std::int64_t first) {
  std::int64_t group = 0;
  const auto make = [&]<int N>(std::integral_constant<int, N>) {
    for (; group + N <= keys.groups(); group += N)
      HalfScores<R, N>(args, row, keys, group).make(first + group * Sve512Half::kLanes);
  };
  if constexpr (R <= 4) make(std::integral_constant<int, 4>());
  make(std::integral_constant<int, 2>());
}

}  // namespace
}  // namespace kumiko::kernels
