// SPDX-License-Identifier: Apache-2.0
// How the vectors of kernels/simd map to the panels of pack.h.
#pragma once

#include <cstdint>

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

/// Elements that a lane holds: two where the ISA multiplies pairs (avx512_bf16.h).
template <class V>
constexpr int elements_per_lane() {
  if constexpr (requires { V::kElementsPerLane; }) {
    return V::kElementsPerLane;
  } else {
    return 1;
  }
}
/// Elements that a vector holds, and lanes that n elements take.
template <class V>
inline constexpr std::int64_t kElements = elements_per_lane<V>() * V::kLanes;
template <class V>
constexpr std::int64_t lanes_of(std::int64_t n) {
  return (n + elements_per_lane<V>() - 1) / elements_per_lane<V>();
}

/// c + a b of every element of a lane.
template <class V>
inline typename V::Reg multiply_add(typename V::Reg a, typename V::Reg b, typename V::Reg c) {
  if constexpr (elements_per_lane<V>() == 1) {
    return V::fma(a, b, c);
  } else {
    return V::product(a, b, c);
  }
}

/// Vectors side by side in a panel; 1 where a vector covers two panels.
template <class V>
inline constexpr int kPanelVectors = V::kMr > V::kLanes ? V::kMr / V::kLanes : 1;
template <class V>
inline constexpr bool kTwoPanels = 2 * V::kMr == V::kLanes;

}  // namespace
}  // namespace kumiko::kernels
