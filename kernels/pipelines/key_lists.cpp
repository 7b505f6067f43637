// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/key_lists.h"

#include <algorithm>
#include <cstring>

namespace kumiko::kernels {
namespace {

/// Sets `to` to 0 for those of keys [first, first + count) whose bit is 0.
void hide_in_tree(const std::uint8_t* bits, std::int64_t tree_first, std::int64_t tree_keys,
                  std::int64_t first, std::int64_t count, std::uint8_t* to) {
  const std::int64_t begin = std::max<std::int64_t>(first - tree_first, 0),
                     end = std::min(first + count - tree_first, tree_keys);
  for (std::int64_t t = begin; t < end; ++t) {
    if ((bits[t / 8] >> t % 8 & 1) == 0) to[tree_first + t - first] = 0;
  }
}

/// Sets `to` to 0 for those of keys [first, first + count) that are outside the listed blocks.
void hide_outside(const std::int32_t* begin, const std::int32_t* end, std::int64_t block_keys,
                  std::int64_t first, std::int64_t count, std::uint8_t* to) {
  std::int64_t at = first;
  const std::int64_t last = first + count;
  const auto hide_until = [&](std::int64_t key) {
    if (key > at) std::memset(to + (at - first), 0, static_cast<std::size_t>(key - at));
  };
  for (const std::int32_t* block = std::lower_bound(begin, end, first / block_keys);
       block != end && *block * block_keys < last; ++block) {
    hide_until(*block * block_keys);
    at = std::max(at, (*block + 1) * block_keys);
  }
  hide_until(last);
}

}  // namespace

void KeyLists::hide(std::int64_t query, std::int64_t head, std::int64_t first, std::int64_t count,
                    std::uint8_t* to) const {
  if (indptr) {
    const std::int32_t* list = indptr + head * head_stride + query / block_rows;
    hide_outside(indices + list[0], indices + list[1], block_keys, first, count, to);
  }
  if (tree) hide_in_tree(tree + query * tree_stride, tree_first, tree_keys, first, count, to);
}

}  // namespace kumiko::kernels
