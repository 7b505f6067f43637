// SPDX-License-Identifier: Apache-2.0
// What the operations of decode.h have in common, for any vector type of kernels/simd.
#pragma once

#include <cstdint>
#include <utility>

#include "kernels/decode/decode.h"
#include "kernels/simd/fetch.h"

namespace kumiko::kernels {
namespace {  // as in the vector types' headers: one copy per ISA file

template <class V>
inline typename V::Reg in_register(typename V::Reg x) {
  if constexpr (requires { V::in_register(x); }) {
    return V::in_register(x);
  } else {
    return x;
  }
}

template <class T>
inline const T* row_of(const RowGroups& rows, std::int64_t j) {
  const std::int64_t group = j >> rows.shift;
  return static_cast<const T*>(rows.group[group]) + (j - (group << rows.shift)) * rows.stride;
}
/// The first key after j that may lie in another group.
inline std::int64_t group_end(const RowGroups& rows, std::int64_t j) {
  return ((j >> rows.shift) + 1) << rows.shift;
}

/// Rows in groups of kGroup, then one group of what is left.
template <int kGroup, class Body>
void for_row_groups(std::int64_t rows, Body body) {
  std::int64_t row = 0;
  for (; row + kGroup <= rows; row += kGroup) body.template operator()<kGroup>(row);
  const auto rest = [&]<int... kLess>(std::integer_sequence<int, kLess...>) {
    return ((rows - row == kLess + 1 && (body.template operator()<kLess + 1>(row), true)) || ...);
  };
  rest(std::make_integer_sequence<int, kGroup - 1>{});
}

}  // namespace
}  // namespace kumiko::kernels
