// SPDX-License-Identifier: Apache-2.0
// The lines of key_tiles.h in vectors of kernels/simd.
#pragma once

#include <type_traits>

#include "kernels/element.h"
#include "kernels/key_tiles/key_tiles.h"
#include "kernels/pack/elements.h"

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

template <class T>
inline constexpr Element kElementOf = std::is_same_v<T, float>  ? Element::f32
                                      : std::is_same_v<T, Bf16> ? Element::bf16
                                                                : Element::f16;
/// Dims of a line, vectors of its keys, and the steps of a product that its dims make.
template <class T>
inline constexpr int kLineDims = 4 / static_cast<int>(sizeof(T));
template <class V>
inline constexpr int kTileVectors = kTileKeys / V::kLanes;
template <class V, class T>
inline constexpr int kLineSteps = kLineDims<T> / elements_per_lane<V>();

/// Loads a vector of keys, one register for each step.
template <class V, class T>
[[gnu::always_inline]] inline void load_line(const T* line, typename V::Reg (&x)[kLineSteps<V, T>]) {
  if constexpr (kLineSteps<V, T> == 1) {
    x[0] = V::load(line);
  } else {
    V::load_pairs(line, x[0], x[1]);
  }
}
/// Loads only the first dim of each key.
template <class V, class T>
[[gnu::always_inline]] inline typename V::Reg load_half_line(const T* line) {
  if constexpr (kLineDims<T> == 1) {
    return V::load(line);
  } else if constexpr (elements_per_lane<V>() == 1) {
    typename V::Reg x[2];
    V::load_pairs(line, x[0], x[1]);
    return x[0];
  } else {
    return V::first_of_pairs(V::load(line));
  }
}

}  // namespace
}  // namespace kumiko::kernels
