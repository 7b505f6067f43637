// SPDX-License-Identifier: Apache-2.0
// append.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include <cstring>
#include <type_traits>

#include "kernels/append/append.h"
#include "kernels/simd/fetch.h"

namespace kumiko::kernels {
namespace {

template <class V>
inline constexpr bool kHasStreams = requires(float* p, typename V::Reg x) {
  V::stream(p, x);
};

/// One row, its elements widened and, with a norm, normalised as they are loaded. Whole vectors and the rest
/// of a row have separate code: a masked load or store of all lanes is slow on AVX2. past_caches: whole
/// vectors are written by non-temporal stores.
template <class V, class From, class To, bool has_norm, bool past_caches>
class AppendRow {
 public:
  using Reg = typename V::Reg;

  AppendRow(const AppendArgs& args, const From* in, To* out) : in_(in), out_(out), weight_(args.weight) {
    if constexpr (has_norm) inverse_ = V::set1(inverse_rms(args));
  }

  Reg load(std::int64_t d) const {
    return normalised(V::load(in_ + d), [&] { return V::load(weight_ + d); });
  }
  Reg load_first(std::int64_t d, std::int64_t n) const {
    return normalised(V::load_first(in_ + d, n), [&] { return V::load_first(weight_ + d, n); });
  }
  void store(std::int64_t d, Reg x) const {
    if constexpr (past_caches)
      V::stream(out_ + d, V::canonical(x));
    else
      V::store(out_ + d, V::canonical(x));
  }
  static constexpr bool kStoresTwo = requires(To * p, Reg x) { V::store_two(p, x, x); };
  /// Two vectors of elements, in the order of V::load_two().
  void load_two(std::int64_t d, Reg (&x)[2]) const {
    V::load_two(in_ + d, x[0], x[1]);
    if constexpr (has_norm) {
      Reg weight[2];
      V::load_two(weight_ + d, weight[0], weight[1]);
      for (int i = 0; i < 2; ++i) x[i] = V::mul(V::mul(x[i], inverse_), weight[i]);
    }
  }
  void store_two(std::int64_t d, const Reg (&x)[2]) const {
    if constexpr (past_caches)
      V::stream_two(out_ + d, x[0], x[1]);
    else
      V::store_two(out_ + d, x[0], x[1]);
  }
  void store_first(std::int64_t d, std::int64_t n, Reg x) const {
    V::store_first(out_ + d, n, V::canonical(x));
  }

 private:
  template <class Weight>
  Reg normalised(Reg x, Weight weight) const {
    if constexpr (has_norm)
      return V::mul(V::mul(x, inverse_), weight());
    else
      return x;
  }
  float inverse_rms(const AppendArgs& args) const {
    constexpr int kVectors = 16 / V::kLanes;
    Reg sums[kVectors];
    for (Reg& sum : sums) sum = V::zero();
    std::int64_t d = 0;
    for (; d + 16 <= args.dim; d += 16) {
#pragma GCC unroll 4
      for (int i = 0; i < kVectors; ++i) {
        const Reg x = V::load(in_ + d + i * V::kLanes);
        sums[i] = V::fma(x, x, sums[i]);
      }
    }
    for (int i = 0; d < args.dim; d += V::kLanes, ++i) {
      const Reg x = V::load_first(in_ + d, args.dim - d);
      sums[i] = V::fma(x, x, sums[i]);
    }
    float all[16];
    for (int i = 0; i < kVectors; ++i) V::store(all + i * V::kLanes, sums[i]);
    for (int width = 8; width > 0; width /= 2) {
      for (int i = 0; i < width; ++i) all[i] += all[i + width];
    }
    return 1.0f / __builtin_sqrtf(all[0] / static_cast<float>(args.dim) + args.eps);
  }

  const From* in_;
  To* out_;
  const float* weight_;
  Reg inverse_;
};

template <class V, class Row>
void rotate_halves(const AppendArgs& args, const Row& row) {
  const std::int64_t half = args.rotary_dim / 2;
  const auto rotate = [](auto& a, auto& b, auto cos, auto sin) {
    const auto first = V::sub(V::mul(a, cos), V::mul(b, sin));
    b = V::add(V::mul(b, cos), V::mul(a, sin));
    a = first;
  };
  std::int64_t d = 0;
  if constexpr (Row::kStoresTwo) {  // Other types would gain nothing: f32 rows 6 % slower (AVX-512, Zen 5).
    for (; d + 2 * V::kLanes <= half; d += 2 * V::kLanes) {
      typename V::Reg a[2], b[2], cos[2], sin[2];
      row.load_two(d, a), row.load_two(d + half, b);
      V::load_two(args.cos + d, cos[0], cos[1]), V::load_two(args.sin + d, sin[0], sin[1]);
#pragma GCC unroll 2
      for (int i = 0; i < 2; ++i) rotate(a[i], b[i], cos[i], sin[i]);
      row.store_two(d, a);
      row.store_two(d + half, b);
    }
  }
  for (; d + V::kLanes <= half; d += V::kLanes) {
    typename V::Reg a = row.load(d), b = row.load(d + half);
    rotate(a, b, V::load(args.cos + d), V::load(args.sin + d));
    row.store(d, a);
    row.store(d + half, b);
  }
  if (const std::int64_t n = half - d; n > 0) {
    typename V::Reg a = row.load_first(d, n), b = row.load_first(d + half, n);
    rotate(a, b, V::load_first(args.cos + d, n), V::load_first(args.sin + d, n));
    row.store_first(d, n, a);
    row.store_first(d + half, n, b);
  }
}

template <class V, class Row>
void rotate_adjacent(const AppendArgs& args, const Row& row) {
  const auto rotate = [](auto x, auto cos, auto sin) {
    return V::add(V::mul(x, cos), V::mul(V::swap_pairs(x), sin));
  };
  std::int64_t d = 0;
  for (; d + V::kLanes <= args.rotary_dim; d += V::kLanes)
    row.store(d, rotate(row.load(d), V::load(args.cos + d), V::load(args.sin + d)));
  if (const std::int64_t n = args.rotary_dim - d; n > 0)
    row.store_first(
        d, n, rotate(row.load_first(d, n), V::load_first(args.cos + d, n), V::load_first(args.sin + d, n)));
}

template <class V, class From, class To, bool has_norm, bool past_caches>
void append_row(const AppendArgs& args, const From* in, To* out) {
  const AppendRow<V, From, To, has_norm, past_caches> row(args, in, out);
  std::int64_t d = args.pairs == RotaryPairs::none ? 0 : args.rotary_dim;
  if (args.pairs == RotaryPairs::halves) rotate_halves<V>(args, row);
  if (args.pairs == RotaryPairs::adjacent) rotate_adjacent<V>(args, row);
  for (; d + V::kLanes <= args.dim; d += V::kLanes) row.store(d, row.load(d));
  if (const std::int64_t n = args.dim - d; n > 0) row.store_first(d, n, row.load_first(d, n));
}

/// Fetches the rows of a list ahead of their use; without a list, nothing.
class RowsAhead {
 public:
  RowsAhead(const RowList& list, std::int64_t width, std::int64_t bytes)
      : lines_(list.begin && bytes > 0 ? lines_of_row(width) : 0),
        ahead_(list.begin ? list : RowList{&kNone, &kNone}, bytes, 1, 1) {}
  /// Fetches as many lines as a row has.
  void fetch() {
    for (std::int64_t i = 0; i < lines_; ++i) ahead_.fetch_line();
  }

 private:
  static constexpr char kByte = 0;
  static constexpr RowRange kNone = {&kByte, 0, 1, kNoEnd};
  std::int64_t lines_;
  RowFetcher ahead_;
};

template <class V, class T, bool past_caches>
void copy_row(const AppendArgs& args, const T* in, T* out) {
  const std::int64_t bytes = args.dim * static_cast<std::int64_t>(sizeof(T));
  if constexpr (past_caches) {
    const auto* from = reinterpret_cast<const float*>(in);
    auto* to = reinterpret_cast<float*>(out);
    for (std::int64_t i = 0; i < bytes / 4; i += V::kLanes) V::stream(to + i, V::load(from + i));
  } else {
    std::memmove(out, in, static_cast<std::size_t>(bytes));  // they may be the same
  }
}

template <class V, class From, class To, bool past_caches>
void append_rows(const AppendArgs& args) {
  RowsAhead reads(args.reads, args.dim * static_cast<std::int64_t>(sizeof(From)), args.ahead),
      writes(args.writes, args.dim * static_cast<std::int64_t>(sizeof(To)), past_caches ? 0 : args.ahead);
  for (std::int64_t row = 0; row < args.rows; ++row) {
    const From* in = static_cast<const From*>(args.in) + row * args.in_stride;
    To* out = static_cast<To*>(args.out) + row * args.out_stride;
    reads.fetch(), writes.fetch();
    if (args.weight) {
      append_row<V, From, To, true, past_caches>(args, in, out);
    } else if (args.pairs != RotaryPairs::none || !std::is_same_v<From, To>) {
      append_row<V, From, To, false, past_caches>(args, in, out);
    } else if constexpr (std::is_same_v<From, To>) {
      copy_row<V, To, past_caches>(args, in, out);
    }
  }
}

/// Whether all stores of the rows are of whole vectors and fill whole lines.
template <class To>
bool fills_lines(const AppendArgs& args) {
  const std::int64_t first_half = args.pairs == RotaryPairs::halves ? args.rotary_dim / 2 : 0,
                     rotated = args.pairs == RotaryPairs::none ? 0 : args.rotary_dim,
                     places = args.dim | args.out_stride | first_half | rotated;
  return (reinterpret_cast<std::uintptr_t>(args.out) | places * sizeof(To)) % kLine == 0;
}

template <class V, class From, class To>
void append_rows(const AppendArgs& args) {
  if constexpr (kHasStreams<V>) {
    if (args.past_caches && fills_lines<To>(args)) return append_rows<V, From, To, true>(args);
  }
  append_rows<V, From, To, false>(args);
}

using Type_f32 = float;
using Type_bf16 = Bf16;
using Type_f16 = F16;

#define KUMIKO_APPEND_KERNEL(isa, V, from, to)                            \
  void append_##from##_to_##to##_##isa(const AppendArgs& args) noexcept { \
    append_rows<V, Type_##from, Type_##to>(args);                         \
  }
#define KUMIKO_APPEND_KERNELS(isa, V)      \
  KUMIKO_APPEND_KERNEL(isa, V, f32, f32)   \
  KUMIKO_APPEND_KERNEL(isa, V, f32, bf16)  \
  KUMIKO_APPEND_KERNEL(isa, V, f32, f16)   \
  KUMIKO_APPEND_KERNEL(isa, V, bf16, f32)  \
  KUMIKO_APPEND_KERNEL(isa, V, bf16, bf16) \
  KUMIKO_APPEND_KERNEL(isa, V, bf16, f16)  \
  KUMIKO_APPEND_KERNEL(isa, V, f16, f32)   \
  KUMIKO_APPEND_KERNEL(isa, V, f16, bf16)  \
  KUMIKO_APPEND_KERNEL(isa, V, f16, f16)

}  // namespace
}  // namespace kumiko::kernels
