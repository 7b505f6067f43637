// SPDX-License-Identifier: Apache-2.0
// The layout of KeyLayout::tiles_of_16, written out once for all tests.
#pragma once

#include <cstdint>

namespace kumiko::test {

/// Elements between the keys of a page's head, and from its start to dim d of key j, of `bytes` each.
inline std::int64_t tile_width(std::int64_t bytes, std::int64_t head_dim) {
  return bytes == 4 ? head_dim : head_dim + head_dim % 2;
}
inline std::int64_t place_in_tiles(std::int64_t bytes, std::int64_t head_dim, std::int64_t j,
                                   std::int64_t d) {
  const std::int64_t tile = j / 16 * 16 * tile_width(bytes, head_dim);
  return tile + (bytes == 4 ? d * 16 + j % 16 : (d / 2 * 16 + j % 16) * 2 + d % 2);
}

}  // namespace kumiko::test
