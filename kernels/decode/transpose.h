// SPDX-License-Identifier: Apache-2.0
// Keys from rows to lanes: a block of V::kLanes keys by kDims elements is transposed into a tile in L1, in
// pieces, so that scores.h can put each piece between products of the block before. These processors look a
// few hundred instructions ahead, and a block alone has that many: transposed at once and then multiplied,
// shuffles and products took turns (Zen 5, AVX-512, f32, 4 rows, in L2: 2.5 us for 256 keys, in pieces 1.9).
//
// Specialised where an ISA has a better way than the one below: x86_avx2_transpose.h, x86_avx512_transpose.h.
#pragma once

#include <cstdint>

#include "kernels/pack/vector.h"
#include "kernels/simd/transpose.h"

namespace kumiko::kernels {
namespace {

template <class V, class T>
struct Transpose {
  using Tile = float;  ///< its elements; V::load makes a vector of V::kLanes keys of them
  static constexpr int kPieces = 1;
  static constexpr std::int64_t kDims = kElements<V>;
  static constexpr int kSteps = V::kLanes;  ///< vectors of keys in a block: kDims, or its pairs

  /// Step i goes to tile[i * step].
  template <int kPiece>
  [[gnu::always_inline]] void piece(const T* keys, std::int64_t stride, Tile* tile, std::int64_t step) {
    typename V::Reg x[V::kLanes];
    load_transposed_block<V>(x, [&](int i) { return keys + i * stride; });
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) V::store(tile + i * step, x[i]);
  }
};

}  // namespace
}  // namespace kumiko::kernels
