// score_tile.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include "kernels/score_tile/score_tile.h"

namespace kumiko::kernels {
namespace {

template <class V>
typename V::Reg load_as_float(const float* p) {
  return V::load(p);
}
template <class V>
typename V::Reg load_as_float(const std::int32_t* p) {
  return V::to_float(V::load(p));
}
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

// Keys outside, vectors of queries inside: S^T is written front to back, whole lines of 3 vectors, and the
// rows are read as `lanes` streams a vector.
template <class V, class T>
void load_scores(const LoadScoresArgs& args) {
  const auto scale = V::set1(args.scale);
  for (std::int64_t j = 0; j < args.kv; j += V::kLanes) {
    const std::int64_t left = args.kv - j;
    const int keys = left < V::kLanes ? static_cast<int>(left) : V::kLanes;
    for (std::int64_t n = 0; n < args.nr; n += V::kLanes) {
      const std::int64_t used = args.rows_used - n;
      typename V::Reg x[V::kLanes];
      if (used >= V::kLanes && left >= V::kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < V::kLanes; ++i) {
          const T* row = static_cast<const T*>(args.rows[n + i]) + j;
          __builtin_prefetch(reinterpret_cast<const char*>(row) + 512, 0, 3);
          x[i] = V::mul(load_as_float<V>(row), scale);
        }
      } else {
        for (int i = 0; i < V::kLanes; ++i) {
          x[i] = i < used ? V::mul(load_first_as_float<V>(static_cast<const T*>(args.rows[n + i]) + j, left),
                                   scale)
                          : V::zero();
        }
      }
      V::transpose(x);
      auto top = V::load(args.block_max + n);
      float* s = args.s + j * args.nr + n;
      if (keys == V::kLanes) {
#pragma GCC unroll 16
        for (int i = 0; i < V::kLanes; ++i) {
          V::store(s + i * args.nr, x[i]);
          top = V::max(x[i], top);
        }
      } else {
        for (int i = 0; i < keys; ++i) {
          V::store(s + i * args.nr, x[i]);
          top = V::max(x[i], top);
        }
      }
      V::store(args.block_max + n, top);
    }
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
