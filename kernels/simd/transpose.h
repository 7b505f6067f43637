// SPDX-License-Identifier: Apache-2.0
// Loads a block of lanes x lanes floats from memory, transposed.
#pragma once

#include <type_traits>

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

/// x[j] lane i = row_at(i)[j].
template <class V, class RowAt>
inline void load_transposed_block(typename V::Reg (&x)[V::kLanes], RowAt row_at) {
  constexpr bool kFloats = std::is_same_v<decltype(row_at(0)), const float*>;
  if constexpr (kFloats && requires { V::load_transposed(x, row_at); }) {
    V::load_transposed(x, row_at);
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) x[i] = V::load(row_at(i));
    V::transpose(x);
  }
}

}  // namespace
}  // namespace kumiko::kernels
