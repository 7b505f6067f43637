// SPDX-License-Identifier: Apache-2.0
// Where rows of keys and values lie in memory, for operations that read them in place.
#pragma once

#include <cstdint>

namespace kumiko::kernels {

inline constexpr std::int64_t kNoEnd = std::int64_t{1} << 40;

/// Rows `stride` bytes apart, each of `width` bytes. In bytes, because prefetching code does not know the
/// element type.
struct RowRange {
  const char* row;
  std::int64_t stride, width, rows;
  std::int64_t l2_ahead = 0;  ///< Bytes from a line to the one prefetched into L2 with it; 0: none.
};

/// Ranges [begin, next) are an operand's rows; from `next` on come those that are read after it. The last
/// range of the list has kNoEnd rows.
struct RowList {
  const RowRange* begin;
  const RowRange* next;
};

/// The rows of a block's keys or values: key j of the block is row j % n of the group j / n, n = 1 << shift.
/// A dense tensor is one group. With pages there are more. A group has at least 16 keys, the lanes of the
/// widest vector.
struct RowGroups {
  const void* const* group;
  std::int64_t stride;  ///< elements from one row of a group to the next
  int shift;
};
inline constexpr std::int64_t kLeastGroup = 16;

}  // namespace kumiko::kernels
