// SPDX-License-Identifier: Apache-2.0
// Keys as tiles of 16, so that decode loads what it otherwise transposes and panels are slices of tiles. A
// tile is ceil(dim / n) lines of 64 bytes; line i has dims [i n, i n + n) of its 16 keys, key after key:
//
//   f32   [dim][16], n = 1
//   16 bits   [ceil(dim / 2)][16][2], n = 2: neighbouring dims of a key side by side. If dim is odd, the
//             last neighbour is written as 0 and never used.
//
// The layout is the same for every ISA.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/decode/decode.h"
#include "kernels/element.h"

namespace kumiko::kernels {

inline constexpr std::int64_t kTileKeys = 16;
static_assert(kTileKeys == kLeastGroup);

/// Lines of a tile, and its elements a key: dim, or the next even number.
constexpr std::int64_t tile_lines(Element element, std::int64_t dim) {
  return element == Element::f32 ? dim : (dim + 1) / 2;
}
constexpr std::int64_t tile_dim(Element element, std::int64_t dim) {
  return element == Element::f32 ? dim : (dim + 1) / 2 * 2;
}

/// The A panels of pack.h's PackKeyArgs from tiles that lie one after the other. Rows past `rows` become 0,
/// to the end of the last tile.
struct TilePanelsArgs {
  const void* tiles;
  std::int64_t rows;
  std::int64_t dim;
  void* dst;  ///< [whole tiles of rows / mr][steps of dim][mr]
};

/// Keys as rows, and the columns [first, first + count) of one tile.
struct TileRowsArgs {
  void* tile;
  std::int64_t first, count;  ///< first + count <= 16
  void* rows;
  std::int64_t stride;  ///< elements from one row to the next
  std::int64_t dim;
};

struct KeyTilesKernel {
  const char* name;
  Isa isa;
  Element element;
  int mr;  ///< height of the panels
  /// decode.h's scores, to the bit; the groups of k are tiles one after the other, and stride is tile_dim().
  void (*scores)(const DecodeScoresArgs&) noexcept;
  void (*panels)(const TilePanelsArgs&) noexcept;
  void (*from_rows)(const TileRowsArgs&) noexcept;  ///< writes the tile's columns and nothing else
  void (*to_rows)(const TileRowsArgs&) noexcept;    ///< writes the rows
};

std::span<const KeyTilesKernel> key_tiles_kernels();
const KeyTilesKernel* find_key_tiles(Isa isa, Element element);

}  // namespace kumiko::kernels
