// SPDX-License-Identifier: Apache-2.0
// Which keys a query sees, in forms that are shorter than a boolean mask: bits over the last keys, for a tree
// of speculative tokens, and lists of key blocks, for block-sparse attention. A pipeline makes a boolean mask
// of one row and one block of keys from them, and from there on it is a mask like any other.
#pragma once

#include <cstdint>

namespace kumiko::kernels {

/// Of one KV head of one sequence.
struct KeyLists {
  /// Query i sees key tree_first + t, t in 0..tree_keys - 1, if bit t % 8 of tree[i * tree_stride + t / 8] is
  /// set; it sees every other key. nullptr: every key.
  const std::uint8_t* tree = nullptr;
  std::int64_t tree_stride = 0;
  std::int64_t tree_first = 0;  ///< Negative if there are more queries than keys.
  std::int64_t tree_keys = 0;

  /// Query i of head h of the group sees key blocks indices[n], n from p[0] to p[1] - 1, where p = indptr + h
  /// * head_stride + i / block_rows; indices rise. nullptr: every key.
  const std::int32_t* indptr = nullptr;
  const std::int32_t* indices = nullptr;
  std::int64_t head_stride = 0;
  std::int64_t block_rows = 0, block_keys = 0;

  bool any() const { return tree || indptr; }
  /// Whether they may hide one of keys [first, last) from some query.
  bool hide_within(std::int64_t first, std::int64_t last) const {
    return indptr || (tree && last > tree_first && first < tree_first + tree_keys);
  }
  /// Whether all of a group's heads have the same lists.
  bool are_of_queries(std::int64_t group) const { return !indptr || head_stride == 0 || group == 1; }
  /// End of the queries from `query` on that are known to see the same keys, without a comparison of their
  /// bits.
  std::int64_t same_until(std::int64_t query) const {
    return tree ? query + 1 : (query / block_rows + 1) * block_rows;
  }
  /// Sets to[j] to 0 for each key first + j, j < count, that query `query` of head `head` does not see.
  void hide(std::int64_t query, std::int64_t head, std::int64_t first, std::int64_t count,
            std::uint8_t* to) const;
};

}  // namespace kumiko::kernels
