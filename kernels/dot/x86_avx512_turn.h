// turn.h for AVX-512: four pieces of four rows each, turned within their 128-bit quarters, then four that
// gather one quarter of every row.
#pragma once

#include <type_traits>

#include "kernels/dot/turn.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {
namespace {

template <class V, class T>
  requires std::is_base_of_v<Avx512, V>
struct Turn<V, T> {
  using Tile = float;
  static constexpr int kPieces = 8;
  static constexpr std::int64_t kDims = kElements<V>;
  static constexpr int kSteps = 16;
  __m512 x[16];

  template <int kPiece>
  [[gnu::always_inline]] void piece(const T* keys, std::int64_t stride, Tile* tile, std::int64_t step) {
    if constexpr (kPiece < 4) {
      const T* rows = keys + 4 * kPiece * stride;
      asm("" : "+r"(rows));  // Or g++ keeps 16 row addresses, most of them in vector registers.
      __m512* const to = x + 4 * kPiece;
      for (int i = 0; i < 4; ++i) to[i] = V::load(rows + i * stride);
      V::transpose_quarters(to[0], to[1], to[2], to[3]);
    } else {
      constexpr int kColumn = kPiece - 4;
      __m512 a = x[kColumn], b = x[kColumn + 4], c = x[kColumn + 8], d = x[kColumn + 12];
      V::gather_quarters(a, b, c, d);
      V::store(tile + kColumn * step, a);
      V::store(tile + (kColumn + 4) * step, b);
      V::store(tile + (kColumn + 8) * step, c);
      V::store(tile + (kColumn + 12) * step, d);
    }
  }
};

}  // namespace
}  // namespace kumiko::kernels
