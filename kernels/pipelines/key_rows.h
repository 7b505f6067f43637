// SPDX-License-Identifier: Apache-2.0
// Where the keys or values of one KV head lie: in a dense tensor, or in pages that a block table names.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/element.h"
#include "kernels/key_tiles/key_tiles.h"
#include "kernels/row_range.h"

namespace kumiko::kernels {

/// Keys [first, first + count), whole pages of keys that no row sees. They may have no page: the page of key
/// `instead` is read in its place.
struct HiddenKeys {
  std::int64_t first = 0, count = 0, instead = 0;
};

/// Strides in elements.
struct KeyRows {
  const void* data = nullptr;  ///< The first row; with pages, the first one of page 0.
  std::int64_t stride = 0;
  const std::int32_t* pages = nullptr;  ///< Keys [i * page_keys, (i + 1) * page_keys) lie in page pages[i].
  std::int64_t page_keys = 0;           ///< 0: dense
  std::int64_t page_stride = 0;
  HiddenKeys hidden{};
  bool is_tiled =
      false;  ///< Pages of key_tiles.h: `stride` is tile_dim(), row() of every 16th key is its tile.

  const void* row(Element element, std::int64_t key) const {
    if (!pages) return element_at(element, data, key * stride);
    const bool is_hidden =
        static_cast<std::uint64_t>(key - hidden.first) < static_cast<std::uint64_t>(hidden.count);
    const std::int32_t page = pages[(is_hidden ? hidden.instead : key) / page_keys];
    return element_at(element, data, page * page_stride + key % page_keys * stride);
  }
  /// The first key after `key` whose row is not `stride` after the row before.
  std::int64_t piece_end(std::int64_t key) const {
    return pages ? (key / page_keys + 1) * page_keys : kNoEnd;
  }

  /// Copies `dim` elements of the rows of keys [first, last), one row after the other.
  void copy(Element element, std::int64_t dim, std::int64_t first, std::int64_t last, std::byte* to) const {
    const std::int64_t width = dim * bytes_of(element);
    for (std::int64_t key = first; key < last;) {
      const auto* from = static_cast<const std::byte*>(row(element, key));
      const std::int64_t end = piece_end(key) < last ? piece_end(key) : last;
      for (; key < end; ++key, from += stride * bytes_of(element), to += width)
        std::memcpy(to, from, static_cast<std::size_t>(width));
    }
  }
  /// Writes those rows as ranges of at most `most` keys. Returns where the ranges end.
  RowRange* list(Element element, std::int64_t dim, std::int64_t first, std::int64_t last, std::int64_t most,
                 RowRange* to) const {
    if (is_tiled) return list_tiles(element, first, last, most, to);
    const std::int64_t bytes = bytes_of(element);
    for (std::int64_t key = first; key < last;) {
      std::int64_t end = piece_end(key) < last ? piece_end(key) : last;
      if (end - key > most) end = key + most;
      *to++ = {static_cast<const char*>(row(element, key)), stride * bytes, dim * bytes, end - key};
      key = end;
    }
    return to;
  }

 private:
  /// Lists whole tiles as rows of whole cache lines, exactly those that are read.
  RowRange* list_tiles(Element element, std::int64_t first, std::int64_t last, std::int64_t most,
                       RowRange* to) const {
    constexpr std::int64_t kLineBytes = 64, kRowLines = 8;
    const std::int64_t lines = kTileKeys * stride * bytes_of(element) / kLineBytes;  // of a tile
    std::int64_t row_lines = kRowLines;
    while (lines % row_lines != 0) row_lines /= 2;
    for (std::int64_t key = first / kTileKeys * kTileKeys; key < last;) {
      std::int64_t end = piece_end(key) < last ? piece_end(key) : last;
      if (end - key > most) end = key + most;
      const std::int64_t tiles = (end - key + kTileKeys - 1) / kTileKeys;
      *to++ = {static_cast<const char*>(row(element, key)), row_lines * kLineBytes, row_lines * kLineBytes,
               tiles * lines / row_lines};
      key += tiles * kTileKeys;
    }
    return to;
  }
};

}  // namespace kumiko::kernels
