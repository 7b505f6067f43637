// SPDX-License-Identifier: Apache-2.0
// key_tiles.h for any vector type of kernels/simd. Included once by each ISA's file.
#pragma once

#include <cstring>

#include "kernels/key_tiles/scores.h"
#include "kernels/simd/transpose.h"

namespace kumiko::kernels {
namespace {

/// Stores one vector of a step's keys, from key c of a tile on, into the panels of that tile.
template <class V>
[[gnu::always_inline]] inline void store_in_panels(float* panels, std::int64_t panel, std::int64_t c,
                                                   std::int64_t step, typename V::Reg x) {
  float* const to = panels + c / V::kMr * panel + step * V::kMr;
  if constexpr (kTwoPanels<V>) {
    V::store_halves(to, to + panel, x);
  } else {
    V::store(to + c % V::kMr, x);
  }
}

template <class V, class T>
void panels_of_tiles(const TilePanelsArgs& args) {
  constexpr int kSteps = kLineSteps<V, T>;
  const std::int64_t lines = tile_lines(kElementOf<T>, args.dim), whole = args.dim / kLineDims<T>;
  constexpr std::int64_t kAhead = 4096 / sizeof(T);
  const std::int64_t panel = lanes_of<V>(args.dim) * V::kMr;  // floats of one
  const T* tile = static_cast<const T*>(args.tiles);
  float* dst = static_cast<float*>(args.dst);
  for (std::int64_t j = 0; j < args.rows;
       j += kTileKeys, tile += lines * kTileKeys * kLineDims<T>, dst += kTileKeys / V::kMr * panel) {
    const bool is_whole = args.rows - j >= kTileKeys;
    for (std::int64_t i = 0; i < lines; ++i) {
      const T* line = tile + i * kTileKeys * kLineDims<T>;
      __builtin_prefetch(line + kAhead, 0, 3);
      alignas(64) T used[kTileKeys * kLineDims<T>];
      if (!is_whole) {
        std::memset(used, 0, sizeof used);
        std::memcpy(used, line, static_cast<std::size_t>(args.rows - j) * 4);
        line = used;
      }
#pragma GCC unroll 16
      for (int c = 0; c < kTileKeys; c += V::kLanes) {
        if (i < whole) {
          typename V::Reg x[kSteps];
          load_line<V>(line + c * kLineDims<T>, x);
#pragma GCC unroll 2
          for (int s = 0; s < kSteps; ++s) store_in_panels<V>(dst, panel, c, i * kSteps + s, x[s]);
        } else {
          store_in_panels<V>(dst, panel, c, i * kSteps, load_half_line<V>(line + c * kLineDims<T>));
        }
      }
    }
  }
}

/// Keys in units of 4 bytes (one dim, or two), as rows and as a tile.
struct TileUnits {
  char* tile;
  char* rows;
  std::int64_t stride, size;  // bytes of a row
  char* row(std::int64_t j) const { return rows + j * stride; }
  char* in_tile(std::int64_t unit, std::int64_t j) const { return tile + (unit * kTileKeys + j) * 4; }
};
template <class T>
TileUnits units_of(const TileRowsArgs& args) {
  constexpr auto kBytes = static_cast<std::int64_t>(sizeof(T));
  return {static_cast<char*>(args.tile) + args.first * 4, static_cast<char*>(args.rows), args.stride * kBytes,
          args.dim * kBytes};
}

/// Copies units [begin, ...) of keys [first, last) one by one, to the tile (scatter) or to the rows (gather).
[[maybe_unused]] void scatter_units(const TileUnits& x, std::int64_t first, std::int64_t last,
                                    std::int64_t begin) {
  for (std::int64_t unit = begin; unit * 4 < x.size; ++unit) {
    const std::int64_t bytes = x.size - unit * 4 < 4 ? x.size - unit * 4 : 4;
    for (std::int64_t j = first; j < last; ++j) {
      char both[4] = {};
      if (bytes == 4)
        std::memcpy(both, x.row(j) + unit * 4, 4);
      else
        std::memcpy(both, x.row(j) + unit * 4, 2);
      std::memcpy(x.in_tile(unit, j), both, 4);
    }
  }
}
[[maybe_unused]] void gather_units(const TileUnits& x, std::int64_t first, std::int64_t last,
                                   std::int64_t begin) {
  for (std::int64_t j = first; j < last; ++j) {
    for (std::int64_t unit = begin; unit * 4 < x.size; ++unit) {
      if (x.size - unit * 4 >= 4)
        std::memcpy(x.row(j) + unit * 4, x.in_tile(unit, j), 4);
      else
        std::memcpy(x.row(j) + unit * 4, x.in_tile(unit, j), 2);
    }
  }
}

/// Square blocks of units are transposed, the rest goes one by one. A block has V::kLanes keys.
template <class V, class T>
void tile_from_rows(const TileRowsArgs& args) {
  const TileUnits x = units_of<T>(args);
  const std::int64_t blocks = x.size / 4 / V::kLanes * V::kLanes;
  std::int64_t j = 0;
  for (; j + V::kLanes <= args.count; j += V::kLanes) {
    for (std::int64_t unit = 0; unit < blocks; unit += V::kLanes) {
      typename V::Reg block[V::kLanes];
      load_transposed_block<V>(
          block, [&](int i) { return reinterpret_cast<const float*>(x.row(j + i) + unit * 4); });
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i)
        V::store(reinterpret_cast<float*>(x.in_tile(unit + i, j)), block[i]);
    }
    scatter_units(x, j, j + V::kLanes, blocks);
  }
  scatter_units(x, j, args.count, 0);
}

template <class V, class T>
void tile_to_rows(const TileRowsArgs& args) {
  const TileUnits x = units_of<T>(args);
  const std::int64_t blocks = x.size / 4 / V::kLanes * V::kLanes;
  std::int64_t j = 0;
  for (; j + V::kLanes <= args.count; j += V::kLanes) {
    for (std::int64_t unit = 0; unit < blocks; unit += V::kLanes) {
      typename V::Reg block[V::kLanes];
      load_transposed_block<V>(block,
                               [&](int i) { return reinterpret_cast<const float*>(x.in_tile(unit + i, j)); });
#pragma GCC unroll 16
      for (int i = 0; i < V::kLanes; ++i)
        V::store(reinterpret_cast<float*>(x.row(j + i) + unit * 4), block[i]);
    }
    gather_units(x, j, j + V::kLanes, blocks);
  }
  gather_units(x, j, args.count, 0);
}

/// V: the vectors of the products; Moved: those of the same ISA with one element in a lane.
#define KUMIKO_KEY_TILES_KERNELS(name, V, Moved, T)           \
  void name##_scores(const DecodeScoresArgs& args) noexcept { \
    decode_tile_scores<V, T>(args);                           \
  }                                                           \
  void name##_panels(const TilePanelsArgs& args) noexcept {   \
    panels_of_tiles<V, T>(args);                              \
  }                                                           \
  void name##_from_rows(const TileRowsArgs& args) noexcept {  \
    tile_from_rows<Moved, T>(args);                           \
  }                                                           \
  void name##_to_rows(const TileRowsArgs& args) noexcept {    \
    tile_to_rows<Moved, T>(args);                             \
  }

}  // namespace
}  // namespace kumiko::kernels
