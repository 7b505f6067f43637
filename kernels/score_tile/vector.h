// SPDX-License-Identifier: Apache-2.0
// score_tile.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/score_tile/score_tile.h"
#include "kernels/simd/transpose.h"

namespace kumiko::kernels {
namespace {

/// The first n lanes; the others are 0 and their memory is not touched.
template <class V>
typename V::Reg load_first_as_float(const float* p, std::int64_t n) {
  return V::load_first(p, n);
}
template <class V>
typename V::Reg load_first_as_float(const std::int32_t* p, std::int64_t n) {
  alignas(64) std::int32_t lanes[V::kLanes] = {};
  for (int i = 0; i < V::kLanes && i < n; ++i) lanes[i] = p[i];
  return V::to_float(V::load(lanes));
}

/// x[j] lane i = rows[i][at + j] as a float.
template <class V>
void load_block(typename V::Reg (&x)[V::kLanes], const float* const* rows, std::int64_t at) {
  load_transposed_block<V>(x, [&](int i) { return rows[i] + at; });
}
template <class V>
void load_block(typename V::Reg (&x)[V::kLanes], const std::int32_t* const* rows, std::int64_t at) {
#pragma GCC unroll 16
  for (int i = 0; i < V::kLanes; ++i) x[i] = V::to_float(V::load(rows[i] + at));
  V::transpose(x);
}

// Queries in the outer loop, `lanes` rows at a time, and keys in the inner one: rows whose length is a power
// of two fall into one set of each cache, and no cache has 48 ways. For the same reason lines are prefetched
// only kAhead scores ahead; past the end of a row, from the next group of rows or, after the last group, from
// the next block.
template <class V, class T>
void load_scores(const LoadScoresArgs& args) {
  constexpr int kTops = 4;  // chains of maxima: a single one is slower than the transposes
  constexpr std::int64_t kAhead = 128;
  const auto scale = V::set1(args.scale);
  for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
    const std::int64_t used = args.rows_used - n;
    const T *rows[V::kLanes] = {}, *next[V::kLanes] = {};
    for (int i = 0; i < V::kLanes && i < used; ++i) {
      rows[i] = static_cast<const T*>(args.rows[n + i]);
      next[i] = n + V::kLanes + i < args.rows_used ? static_cast<const T*>(args.rows[n + V::kLanes + i])
                                                   : static_cast<const T*>(args.rows[i]) + args.kv;
    }
    typename V::Reg top[kTops], x[V::kLanes];
    for (auto& m : top) m = V::load(args.block_max + n);
    float* s = args.s + n;
    std::int64_t j = 0;
    for (; used >= V::kLanes && j + V::kLanes <= args.kv; j += V::kLanes, s += V::kLanes * args.nr) {
      const T* const* ahead = j + kAhead < args.kv ? rows : next;
      const std::int64_t at = j + kAhead < args.kv ? j + kAhead : j + kAhead - args.kv;
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) __builtin_prefetch(ahead[i] + at, 0, 3);
      load_block<V>(x, rows, j);
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i) {
        x[i] = V::mul(x[i], scale);
        V::store(s + i * args.nr, x[i]);
        top[i % kTops] = V::max(x[i], top[i % kTops]);
      }
    }
    for (; j < args.kv; j += V::kLanes, s += V::kLanes * args.nr) {
      const std::int64_t left = args.kv - j;
      for (int i = 0; i < V::kLanes; ++i)
        x[i] = i < used ? V::mul(load_first_as_float<V>(rows[i] + j, left), scale) : V::zero();
      V::transpose(x);
      for (int i = 0; i < V::kLanes && i < left; ++i) {
        V::store(s + i * args.nr, x[i]);
        top[0] = V::max(x[i], top[0]);
      }
    }
    V::store(args.block_max + n, V::max(V::max(top[0], top[1]), V::max(top[2], top[3])));
  }
}

template <class V>
void zero_hidden(const MaskArgs& args) {
  for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
    const auto begin = V::load(args.begin + n), end = V::load(args.end + n);
    float* s = args.s + n;
    for (std::int64_t j = 0; j < args.kv; ++j, s += args.nr) {
      const auto hidden =
          V::keep_visible(V::zero(), begin, end, args.first + static_cast<std::int32_t>(j));  // 0 or -inf
      V::store(s, V::select_less(hidden, V::zero(), V::zero(), V::load(s)));
    }
  }
}

#define KUMIKO_SCORE_TILE_KERNELS(name, V)                    \
  void name##_load_f32(const LoadScoresArgs& args) noexcept { \
    load_scores<V, float>(args);                              \
  }                                                           \
  void name##_load_i32(const LoadScoresArgs& args) noexcept { \
    load_scores<V, std::int32_t>(args);                       \
  }                                                           \
  void name##_zero_hidden(const MaskArgs& args) noexcept {    \
    zero_hidden<V>(args);                                     \
  }

}  // namespace
}  // namespace kumiko::kernels
