// SPDX-License-Identifier: Apache-2.0
// Scores of decode.h's product f16: 64 keys in the lanes of two vectors. Shuffles and products take turns as
// in arm_sve512_scores.h, with two tiles of 32 dims: one is made while the other is multiplied. Pairs of dims
// are shuffled as elements of 32 bits; then the even and the odd ones of two vectors, each of 16 keys, become
// a dim of 32 keys. Bound: 448 cycles for 64 keys by 32 dims, by shuffles and stores.
#pragma once

#include "kernels/decode/arm_sve512_order.h"
#include "kernels/decode/rows.h"
#include "kernels/gemm/gemm.h"
#include "kernels/pack/arm_sve512_half.h"
#include "kernels/pack/pack.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kHalfKeys = 64;  // whose scores are made together
constexpr int kHalfVectors = kHalfKeys / Sve512Half::kLanes, kHalfGroups = kHalfKeys / Sve512Half::kTurned;

/// Up to kHalfKeys keys and tiles of them, tile[d][key], times 2^-exponent.
class HalfKeys {
 public:
  using H = Sve512Half;
  static constexpr int kDims = H::kLanes;  ///< of a tile

  HalfKeys(const RowGroups& rows, std::int64_t first, std::int64_t count, std::int64_t dim, RowFetcher& ahead)
      : stride_(rows.stride), keys_(count) {
    for (int g = 0; g < kHalfGroups; ++g)
      group_[g] = row_of<F16>(rows, g * H::kTurned < keys_ ? first + g * H::kTurned : first);
    const std::int64_t lines = kHalfKeys * lines_of_row(dim * 2);
    for (std::int64_t line = 0; line < lines; ++line) ahead.fetch_line();
    if (whole()) {
      for (int v = 0; v < kHalfVectors; ++v) find_exponents(v * H::kLanes, dim);
    } else {
      for (std::int64_t i = 0; i < kHalfKeys; ++i)
        exponent_[i] = i < keys_ ? half_key_exponent(row(i), dim) : 0;
    }
    for (std::int64_t i = 0; i < kHalfKeys; i += Sve512::kLanes) {
      const svint32_t e = svld1_s32(svptrue_b32(), exponent_ + i);
      svst1_s32(svptrue_b32(), reinterpret_cast<std::int32_t*>(range_ + i),
                svlsl_n_s32_x(svptrue_b32(), svadd_n_s32_x(svptrue_b32(), e, 127), 23));
      svst1h_s32(svptrue_b32(), shift_ + i, svneg_s32_x(svptrue_b32(), e));
    }
  }

  /// All lanes have a key.
  bool whole() const { return keys_ == kHalfKeys; }
  const float* range() const { return range_; }
  const F16* tile(std::int64_t number) const { return tile_[number % 2]; }

  /// Up to kDims dims from d on.
  void turn(std::int64_t number, std::int64_t d, std::int64_t dims) {
    for (int g = 0; g < kHalfGroups; ++g) {
      const std::int64_t i = g * H::kTurned, left = keys_ - i;
      turn_keys(group_[g] + d, stride_, left < H::kTurned ? left : H::kTurned, exponent_ + i, dims,
                tile_[number % 2] + i, kHalfKeys);
    }
  }
  /// kDims dims of whole keys from d on. between(i), i a constant below 4, is called after every four
  /// shuffles, 16 times; begin() before its first.
  template <class Begin, class Between>
  [[gnu::always_inline]] void turn_whole(std::int64_t number, std::int64_t d, Begin begin, Between between) {
    for (int v = 0; v < kHalfVectors; ++v) {
      for (int g = 0; g < kStep; ++g) {
        begin();
        shuffle_group(v, g, d, between);
      }
    }
    for (int v = 0; v < kHalfVectors; ++v) {
      const H::ShiftBits shift = svld1_s16(svptrue_b16(), shift_ + v * H::kLanes);
      for (int c = 0; c < kStep; ++c) {
        begin();
        finish_dims(v, c, tile_[number % 2], shift, between);
      }
    }
  }

 private:
  static constexpr int kStep = 4;

  const F16* row(std::int64_t i) const { return group_[i / H::kTurned] + i % H::kTurned * stride_; }

  /// Raises `most` to the magnitudes of d and after of each key, kVectors vectors, the last of `tail`
  /// elements.
  template <int kVectors>
  [[gnu::always_inline]] static void raise(H::Bits (&most)[4], const F16* const (&key)[4], std::int64_t d,
                                           std::int64_t tail) {
    unrolled<4>([&](auto k) __attribute__((always_inline)) {
      H::Bits x[kVectors];
      unrolled<kVectors>([&](auto i) __attribute__((always_inline)) {
        x[i] = H::magnitude(H::load_bits(key[k] + d + i * H::kLanes, tail));
      });
      if constexpr (kVectors == 4)
        x[0] = svmax_u16_x(H::all(), svmax_u16_x(H::all(), x[0], x[1]), svmax_u16_x(H::all(), x[2], x[3]));
      most[k] = svmax_u16_x(H::all(), most[k], x[0]);
    });
  }
  /// Of the lanes of two keys, the larger ones of each two that a shuffle brings together.
  static H::Bits join(H::Bits a, H::Bits b) {
    return svmax_u16_x(H::all(), svzip1_u16(a, b), svzip2_u16(a, b));
  }
  /// half_key_exponent() of 32 keys from `first` on. A tree of shuffles, which leaves key i in lane i: a
  /// maximum within a vector takes the time of ten of them. Keys i, i + 8, i + 16 and i + 24 are joined as
  /// they are read: one after the other through memory, this took 20 cycles a key (D = 128).
  void find_exponents(std::int64_t first, std::int64_t dim) {
    constexpr std::int64_t kAtOnce = 4 * H::kLanes;
    alignas(64) std::uint16_t joined[8][H::kLanes];
    const F16* key[4] = {row(first), row(first + 8), row(first + 16), row(first + 24)};
    for (auto& of : joined) {
      H::Bits most[4];
      unrolled<4>([&](auto k) __attribute__((always_inline)) { most[k] = svdup_u16(0); });
      std::int64_t d = 0;
      for (; d + kAtOnce <= dim; d += kAtOnce) raise<4>(most, key, d, H::kLanes);
      for (; d < dim; d += H::kLanes) raise<1>(most, key, d, dim - d);
      svst1_u16(H::all(), of, join(join(most[0], most[2]), join(most[1], most[3])));
      unrolled<4>([&](auto k) __attribute__((always_inline)) { key[k] += stride_; });
    }
    H::Bits y[8];
    unrolled<8>([&](auto i) __attribute__((always_inline)) { y[i] = svld1_u16(H::all(), joined[i]); });
    unrolled<4>([&](auto i) __attribute__((always_inline)) { y[i] = join(y[i], y[i + 4]); });
    const H::Bits x = join(join(y[0], y[2]), join(y[1], y[3]));
    if (svmaxv_u16(H::all(), x) >= 0x7c00) {  // Infinities and NaN do not count.
      for (std::int64_t i = first; i < first + H::kLanes; ++i) exponent_[i] = half_key_exponent(row(i), dim);
      return;
    }
    const svbool_t normal = svcmpge_n_u16(H::all(), x, 0x0400);
    const svint16_t e = svsub_n_s16_z(normal, svreinterpret_s16_u16(svlsr_n_u16_x(H::all(), x, 10)), 15);
    svst1_s32(svptrue_b32(), exponent_ + first, svunpklo_s32(e));
    svst1_s32(svptrue_b32(), exponent_ + first + Sve512::kLanes, svunpkhi_s32(e));
  }

  /// Group g of the rows of the keys in vector v.
  template <class Between>
  [[gnu::always_inline]] void shuffle_group(int v, int g, std::int64_t d, Between between) {
    unrolled<2>([&](auto part) __attribute__((always_inline)) {
      const F16* const first = group_[2 * v + part] + d + g * stride_;
      Vector32 x[kStep];
      unrolled<kStep>([&](auto i) __attribute__((always_inline)) {
        x[i] = Sve512::load(reinterpret_cast<const float*>(first + kStep * i * stride_));
      });
      shuffle_rows(x);
      between(std::integral_constant<int, 2 * part>());
      shuffle_rows(x);
      between(std::integral_constant<int, 2 * part + 1>());
      unrolled<kStep>([&](auto i)
                          __attribute__((always_inline)) { Sve512::store(half_[v][i][g][part], x[i]); });
    });
  }
  /// Dims 8 c to 8 c + 7.
  template <class Between>
  [[gnu::always_inline]] void finish_dims(int v, int c, F16* tile, H::ShiftBits shift, Between between) {
    Vector32 x[2][kStep];
    unrolled<2>([&](auto part) __attribute__((always_inline)) {
      unrolled<kStep>([&](auto i) __attribute__((always_inline)) {
        x[part][i] = Sve512::load(half_[v][c][i][part]);
      });
      shuffle_rows(x[part]);
      between(std::integral_constant<int, 2 * part>());
      shuffle_rows(x[part]);
      between(std::integral_constant<int, 2 * part + 1>());
    });
    F16* to = tile + c * 8 * kHalfKeys + v * H::kLanes;
    unrolled<kStep>([&](auto i) __attribute__((always_inline)) {
      const svuint16_t a = svreinterpret_u16_f32(x[0][i]), b = svreinterpret_u16_f32(x[1][i]);
      const H::Reg even = H::scale(svreinterpret_f16_u16(svuzp1_u16(a, b)), shift),
                   odd = H::scale(svreinterpret_f16_u16(svuzp2_u16(a, b)), shift);
      H::store(to + 2 * i * kHalfKeys, even);
      H::store(to + (2 * i + 1) * kHalfKeys, odd);
    });
  }

  const F16* group_[kHalfGroups];
  std::int64_t stride_, keys_;
  int exponent_[kHalfKeys];
  std::int16_t shift_[kHalfKeys];  // -exponent_
  alignas(64) float range_[kHalfKeys];
  alignas(64) F16 tile_[2][kDims * kHalfKeys];
  alignas(64) float half_[kHalfVectors][kStep][kStep][2][Sve512::kLanes];  // [vector][dims][rows][group]
};

/// Scores of R rows.
template <int R>
class HalfScores {
 public:
  using H = Sve512Half;
  using V = Sve512;

  HalfScores(const DecodeScoresArgs& args, std::int64_t row, HalfKeys& keys)
      : args_(args), q_(reinterpret_cast<const F16*>(args.q) + row), keys_(keys) {}

  void make(std::int64_t row, std::int64_t first) {
    const std::int64_t tiles = (args_.dim + HalfKeys::kDims - 1) / HalfKeys::kDims,
                       whole = keys_.whole() ? args_.dim / HalfKeys::kDims : 0;
    const auto nothing = [](auto...) __attribute__((always_inline)){};
    if (whole > 0) keys_.turn_whole(0, 0, nothing, nothing);
    Chains chain;
    start(chain);
    for (std::int64_t number = 0; number < tiles; ++number) {
      const std::int64_t d = number * HalfKeys::kDims, next = d + HalfKeys::kDims;
      const F16* x = keys_.tile(number);
      const F16* q = q_ + d * args_.q_stride;
      if (number + 1 < whole) {
        // Two dims for every four shuffles, a vector and all rows after each of four.
        const F16* at[2];
        keys_.turn_whole(
            number + 1, next,
            [&]() __attribute__((always_inline)) {
              at[0] = q, at[1] = q + args_.q_stride;
              x_ = x;
              q += 2 * args_.q_stride, x += 2 * kHalfKeys;
            },
            [&](auto i)
                __attribute__((always_inline)) { multiply<i % 2>(chain, x_ + i * H::kLanes, at[i / 2]); });
      } else {
        if (number >= whole) keys_.turn(number, d, args_.dim - d);
        const std::int64_t dims = args_.dim - d < HalfKeys::kDims ? args_.dim - d : HalfKeys::kDims;
        for (std::int64_t i = 0; i < dims; ++i, q += args_.q_stride, x += kHalfKeys)
          unrolled<kHalfVectors>([&](auto v) __attribute__((always_inline)) {
            multiply<v>(chain, x + v * H::kLanes, q);
          });
      }
      if (next < args_.dim && next % kHalfPair == kHalfChain) {
        keep(chain);
        start(chain);
      } else if (next >= args_.dim || next % kHalfPair == 0) {
        if (d % kHalfPair >= kHalfChain) add_kept(chain);
        end(chain, d < kHalfPair);
        start(chain);
      }
    }
    store(row, first);
  }

 private:
  struct Chains {
    H::Reg of[R][kHalfVectors];
  };
  [[gnu::always_inline]] static void start(Chains& chain) {
    unrolled<R * kHalfVectors>([&](auto i) __attribute__((always_inline)) {
      chain.of[i / kHalfVectors][i % kHalfVectors] = H::zero();
    });
  }
  template <int v>
  [[gnu::always_inline]] static void multiply(Chains& chain, const F16* x, const F16* q) {
    const H::Reg key = H::load(x);
    unrolled<R>([&](auto r) __attribute__((always_inline)) {
      chain.of[r][v] = plus_product(chain.of[r][v], key, H::set1(q[r]));
    });
  }
  /// The sums of a pair's first chain.
  [[gnu::always_inline]] void keep(const Chains& chain) {
    unrolled<R * kHalfVectors>([&](auto i) __attribute__((always_inline)) {
      H::store(kept_ + i * H::kLanes, chain.of[i / kHalfVectors][i % kHalfVectors]);
    });
  }
  [[gnu::always_inline]] void add_kept(Chains& chain) const {
    unrolled<R * kHalfVectors>([&](auto i) __attribute__((always_inline)) {
      H::Reg& x = chain.of[i / kHalfVectors][i % kHalfVectors];
      x = H::add(x, H::load(kept_ + i * H::kLanes));
    });
  }
  [[gnu::always_inline]] void end(Chains& chain, bool is_first) {
    unrolled<R * kHalfVectors>([&](auto i) __attribute__((always_inline)) {
      const H::Reg x = chain.of[i / kHalfVectors][i % kHalfVectors];
      float* const at = sum_[i / kHalfVectors] + i % kHalfVectors * H::kLanes;
      const V::Reg low = H::low(x), high = H::high(x);
      V::store(at, is_first ? low : V::add(V::load(at), low));
      V::store(at + V::kLanes, is_first ? high : V::add(V::load(at + V::kLanes), high));
    });
  }
  void store(std::int64_t row, std::int64_t first) const {
    for (int r = 0; r < R; ++r) {
      float* const out = args_.scores + (row + r) * args_.score_stride + first;
      const V::Reg range = V::set1(args_.range[row + r]);
      for (std::int64_t i = 0; i < kHalfKeys; i += V::kLanes)
        V::store(out + i, V::mul(V::mul(V::load(sum_[r] + i), range), V::load(keys_.range() + i)));
    }
  }

  const DecodeScoresArgs& args_;
  const F16* const q_;
  const F16* x_ = nullptr;
  HalfKeys& keys_;
  alignas(64) float sum_[R][kHalfKeys];
  alignas(64) F16 kept_[R * kHalfKeys];
};

}  // namespace
}  // namespace kumiko::kernels
