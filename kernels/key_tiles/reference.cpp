// SPDX-License-Identifier: Apache-2.0
// The spec of key_tiles.h in plain C++.
#include <cmath>

#include "kernels/decode/rows.h"
#include "kernels/key_tiles/key_tiles.h"
#include "kernels/simd/scalar_fma.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kTilePanelRows = 4;

/// Dims of a line.
template <class T>
constexpr std::int64_t kDimsOfLine = 4 / static_cast<std::int64_t>(sizeof(T));

/// Where dim d of a tile's key j is.
template <class T>
std::int64_t place_in_tile(std::int64_t j, std::int64_t d) {
  return (d / kDimsOfLine<T> * kTileKeys + j) * kDimsOfLine<T> + d % kDimsOfLine<T>;
}

template <class T>
void tile_scores(const DecodeScoresArgs& args) {
  with_fma([&]() __attribute__((always_inline)) {
    for (std::int64_t row = 0; row < args.rows; ++row) {
      for (std::int64_t j = 0; j < args.kv; ++j) {
        const T* tile = row_of<T>(args.k, j / kTileKeys * kTileKeys);
        float sum = 0.0f;
        for (std::int64_t d = 0; d < args.dim; ++d)
          sum = std::fma(to_float(tile[place_in_tile<T>(j % kTileKeys, d)]), args.q[row * args.q_stride + d],
                         sum);
        args.scores[row * args.score_stride + j] = sum;
      }
    }
  });
}

template <class T>
void tile_panels(const TilePanelsArgs& args) {
  const std::int64_t width = (args.dim + kDimsOfLine<T> - 1) / kDimsOfLine<T> * kDimsOfLine<T>;
  for (std::int64_t j = 0; j < (args.rows + kTileKeys - 1) / kTileKeys * kTileKeys; ++j) {
    const T* tile = static_cast<const T*>(args.tiles) + j / kTileKeys * kTileKeys * width;
    float* panel =
        static_cast<float*>(args.dst) + j / kTilePanelRows * kTilePanelRows * args.dim + j % kTilePanelRows;
    for (std::int64_t d = 0; d < args.dim; ++d)
      panel[d * kTilePanelRows] = j < args.rows ? to_float(tile[place_in_tile<T>(j % kTileKeys, d)]) : 0.0f;
  }
}

template <class T>
void tile_from_rows(const TileRowsArgs& args) {
  T* tile = static_cast<T*>(args.tile);
  for (std::int64_t j = 0; j < args.count; ++j) {
    const T* row = static_cast<const T*>(args.rows) + j * args.stride;
    for (std::int64_t d = 0; d < args.dim; ++d) tile[place_in_tile<T>(args.first + j, d)] = row[d];
    if (args.dim % kDimsOfLine<T> != 0) tile[place_in_tile<T>(args.first + j, args.dim)] = T{};
  }
}

template <class T>
void tile_to_rows(const TileRowsArgs& args) {
  const T* tile = static_cast<const T*>(args.tile);
  for (std::int64_t j = 0; j < args.count; ++j) {
    T* row = static_cast<T*>(args.rows) + j * args.stride;
    for (std::int64_t d = 0; d < args.dim; ++d) row[d] = tile[place_in_tile<T>(args.first + j, d)];
  }
}

}  // namespace

#define KUMIKO_KEY_TILES_REFERENCE(name, T)                   \
  void name##_scores(const DecodeScoresArgs& args) noexcept { \
    tile_scores<T>(args);                                     \
  }                                                           \
  void name##_panels(const TilePanelsArgs& args) noexcept {   \
    tile_panels<T>(args);                                     \
  }                                                           \
  void name##_from_rows(const TileRowsArgs& args) noexcept {  \
    tile_from_rows<T>(args);                                  \
  }                                                           \
  void name##_to_rows(const TileRowsArgs& args) noexcept {    \
    tile_to_rows<T>(args);                                    \
  }
KUMIKO_KEY_TILES_REFERENCE(key_tiles_f32_reference, float)
KUMIKO_KEY_TILES_REFERENCE(key_tiles_bf16_reference, Bf16)
KUMIKO_KEY_TILES_REFERENCE(key_tiles_f16_reference, F16)

}  // namespace kumiko::kernels
