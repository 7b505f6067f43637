// SPDX-License-Identifier: Apache-2.0
// Keys from rows to lanes: a block of V::kLanes keys by kDims elements is transposed into a tile in L1, in
// pieces, so that scores.h can put each piece between products of the block before. These processors have
// windows of a few hundred instructions, as many as one block has: when a block is transposed as a whole and
// then multiplied, shuffles and products do not overlap (Zen 5, AVX-512, f32, 4 rows, in L2: 2.5 us for 256
// keys, in pieces 1.9).
//
// Specialised where an ISA has a better way than the one below: x86_avx2_transpose.h, x86_avx512_transpose.h.
#pragma once

#include <cstdint>

#include "kernels/pack/vector.h"
#include "kernels/simd/transpose.h"

namespace kumiko::kernels {
namespace {

/// What a tile in L1 holds: `Tile`, its elements; kRow of them in a row; load(): step i of block `part` of
/// kParts, V::kLanes keys. Here a row is a step.
template <class V>
struct StepTile {
  using Tile = float;
  static constexpr int kRow = V::kLanes;
  template <int kParts>
  [[gnu::always_inline]] static typename V::Reg load(const float* tile, int i, int part) {
    return V::load(tile + (i * kParts + part) * kRow);
  }
};

/// Tiles whose rows are pairs of bf16: step 2 i is the lower halves of row i, step 2 i + 1 the upper ones.
/// They are widened when they are multiplied, not when they are stored: half the stores, and half the loads
/// (Zen 4, 256 keys, 4 rows, in L2: AVX-512 3.50 us instead of 3.85, AVX2 3.30 instead of 3.51).
template <class V>
struct PairTile {
  using Tile = float;
  static constexpr int kRow = V::kLanes;
  template <int kParts>
  [[gnu::always_inline]] static typename V::Reg load(const float* tile, int i, int part) {
    const auto pairs = V::load(tile + (i / 2 * kParts + part) * kRow);
    return i % 2 == 0 ? V::low_halves(pairs) : V::high_halves(pairs);
  }
};

/// Tiles whose rows are f16 of two steps, one after the other.
template <class V>
struct TwoStepTile {
  using Tile = F16;
  static constexpr int kRow = 2 * V::kLanes;
  template <int kParts>
  [[gnu::always_inline]] static typename V::Reg load(const F16* tile, int i, int part) {
    return V::load(tile + (i / 2 * kParts + part) * kRow + i % 2 * V::kLanes);
  }
};

template <class V, class T>
struct Transpose : StepTile<V> {
  static constexpr int kPieces = 1;
  static constexpr std::int64_t kDims = kElements<V>;
  static constexpr int kSteps = V::kLanes;  ///< vectors of keys in a block: kDims, or its pairs
  static constexpr int kRows = kSteps;      ///< rows of a tile that a block has

  /// Row i goes to tile[i * step].
  template <int kPiece>
  [[gnu::always_inline]] void piece(const T* keys, std::int64_t stride, float* tile, std::int64_t step) {
    typename V::Reg x[V::kLanes];
    load_transposed_block<V>(x, [&](int i) { return keys + i * stride; });
#pragma GCC unroll 16
    for (int i = 0; i < V::kLanes; ++i) V::store(tile + i * step, x[i]);
  }
};

}  // namespace
}  // namespace kumiko::kernels
