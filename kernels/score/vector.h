// SPDX-License-Identifier: Apache-2.0
// score.h for any vector type of kernels/simd. Included once by each ISA's file.
//
// One pass over the tile per term: the tile is in L1, and a pass costs a load and a store a vector.
#pragma once

#include "kernels/pack/vector.h"
#include "kernels/score/score.h"
#include "kernels/simd/tanh.h"

namespace kumiko::kernels {
namespace {

/// Loads keys [j, j + lanes) of `lanes` queries into registers, one key each; keys past `keys` are 0.
template <class V, class T, class RowAt>
void load_keys(typename V::Reg (&x)[V::kLanes], RowAt row_at, std::int64_t stride, std::int64_t j,
               std::int64_t keys) {
  if (stride == 1) return load_transposed<V>(x, row_at, V::kLanes, j, keys - j);
  alignas(64) float lanes[V::kLanes];
  for (int k = 0; k < V::kLanes; ++k) {
    x[k] = V::zero();
    if (j + k >= keys) continue;
    for (int n = 0; n < V::kLanes; ++n) lanes[n] = to_float(row_at(n)[(j + k) * stride]);
    x[k] = V::load(lanes);
  }
}

/// Calls apply(s, term) for every score of the tile, with the term read from one row of T per query.
template <class V, class T, class RowAt, class Apply>
void for_each_of_tile(const ScoreTileArgs& args, RowAt row_at, std::int64_t stride, Apply apply) {
  for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
    for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
      typename V::Reg x[V::kLanes];
      load_keys<V, T>(
          x, [&](int i) { return row_at(n + i); }, stride, j, args.kv);
      const int keys = args.kv - j < V::kLanes ? static_cast<int>(args.kv - j) : V::kLanes;
      float* s = args.s + j * args.nr + n;
      for (int k = 0; k < keys; ++k, s += args.nr) V::store(s, apply(V::load(s), x[k]));
    }
  }
}

/// The same for one query's row.
template <class V, class T, class Apply>
void for_each_of_row(const ScoreRowArgs& args, const T* row, std::int64_t stride, Apply apply) {
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    auto x = V::zero();
    const std::int64_t left = args.kv - j;
    if (stride == 1) {
      x = left >= V::kLanes ? V::load(row + j) : V::load_first(row + j, left);
    } else {
      alignas(64) float lanes[V::kLanes] = {};
      for (int k = 0; k < V::kLanes && k < left; ++k) lanes[k] = to_float(row[(j + k) * stride]);
      x = V::load(lanes);
    }
    V::store(args.s + j, apply(V::load(args.s + j), x));
  }
}

/// Calls body(const T*) with the bias's type.
template <class Body>
void with_element(Element element, Body body) {
  if (element == Element::f32) return body(static_cast<const float*>(nullptr));
  if (element == Element::bf16) return body(static_cast<const Bf16*>(nullptr));
  return body(static_cast<const F16*>(nullptr));
}

template <class V>
void score_tile(const ScoreTileArgs& args) {
  const ScoreTerms& terms = *args.terms;
  if (args.scale != 1.0f) {
    const auto scale = V::set1(args.scale);
    for (std::int64_t i = 0; i < args.kv * args.nr; i += V::kLanes)
      V::store(args.s + i, V::mul(V::load(args.s + i), scale));
  }
  if (terms.softcap != 0.0f) {
    const auto cap = V::set1(terms.softcap);
    for (std::int64_t i = 0; i < args.kv * args.nr; i += V::kLanes)
      V::store(args.s + i, V::mul(tanh<V>(V::load(args.s + i)), cap));
  }
  if (terms.has_bias) {
    const auto log2e = V::set1(kLog2e);
    with_element(terms.bias_element, [&]<class T>(const T*) {
      for_each_of_tile<V, T>(
          args, [&](std::int64_t n) { return static_cast<const T*>(args.bias[n]); }, terms.bias_stride,
          [&](auto s, auto bias) { return V::fma(bias, log2e, s); });
    });
  }
  if (terms.has_alibi) {
    for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
      const auto slope = V::load(args.slope + n);
      const auto position = V::load(args.position + n);
      float* s = args.s + n;
      for (std::int64_t j = 0; j < args.kv; ++j, s += args.nr)
        V::store(s, V::fma(slope, V::distance(position, static_cast<std::int32_t>(j)), V::load(s)));
    }
  }
  if (terms.has_mask) {
    for_each_of_tile<V, Bool8>(
        args, [&](std::int64_t n) { return reinterpret_cast<const Bool8*>(args.mask[n]); }, terms.mask_stride,
        [](auto s, auto mask) { return V::minus_infinity_if_zero(s, mask); });
  }
}

template <class V>
void score_row(const ScoreRowArgs& args) {
  const ScoreTerms& terms = *args.terms;
  if (args.scale != 1.0f) {
    const auto scale = V::set1(args.scale);
    for (std::int64_t j = 0; j < args.kv; j += V::kLanes)
      V::store(args.s + j, V::mul(V::load(args.s + j), scale));
  }
  if (terms.softcap != 0.0f) {
    const auto cap = V::set1(terms.softcap);
    for (std::int64_t j = 0; j < args.kv; j += V::kLanes)
      V::store(args.s + j, V::mul(tanh<V>(V::load(args.s + j)), cap));
  }
  if (terms.has_bias) {
    const auto log2e = V::set1(kLog2e);
    with_element(terms.bias_element, [&]<class T>(const T*) {
      for_each_of_row<V, T>(args, static_cast<const T*>(args.bias), terms.bias_stride,
                            [&](auto s, auto bias) { return V::fma(bias, log2e, s); });
    });
  }
  if (terms.has_alibi) {
    const auto slope = V::set1(args.slope);
    for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
      const auto distance = V::distances(args.position, static_cast<std::int32_t>(j));
      V::store(args.s + j, V::fma(slope, distance, V::load(args.s + j)));
    }
  }
  if (terms.has_mask) {
    for_each_of_row<V, Bool8>(args, reinterpret_cast<const Bool8*>(args.mask), terms.mask_stride,
                              [](auto s, auto mask) { return V::minus_infinity_if_zero(s, mask); });
  }
}

template <class V>
void tanh_array(const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; i += V::kLanes) V::store(y + i, tanh<V>(V::load(x + i)));
}

#define KUMIKO_SCORE_KERNELS(name, V)                                   \
  void name##_tile(const ScoreTileArgs& args) noexcept {                \
    score_tile<V>(args);                                                \
  }                                                                     \
  void name##_row(const ScoreRowArgs& args) noexcept {                  \
    score_row<V>(args);                                                 \
  }                                                                     \
  void name##_tanh(const float* x, float* y, std::int64_t n) noexcept { \
    tanh_array<V>(x, y, n);                                             \
  }

}  // namespace
}  // namespace kumiko::kernels
