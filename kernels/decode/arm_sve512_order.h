// SPDX-License-Identifier: Apache-2.0
// Shuffles and products of SVE vectors in the order in which they are written, for loops that give work to
// both pipes. They are volatile because g++ would put all shuffles before all products. It would also
// overwrite a product's factor, and then move the sum back.
#pragma once

#include <utility>

#include "kernels/simd/sve512_half.h"

namespace kumiko::kernels {
namespace {

/// body(0), ..., body(kCount - 1), each with a constant: arrays of vectors that a loop indexes would be in
/// memory.
template <int kCount, class Body>
[[gnu::always_inline]] inline void unrolled(Body body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>()), ...);
  }
  (std::make_integer_sequence<int, kCount>());
}

using Vector32 = Sve512::Reg;
using Vector16 = Sve512Half::Reg;

[[gnu::always_inline]] inline Vector32 plus_product(Vector32 sum, Vector32 a, Vector32 b) {
  asm volatile("fmla %0.s, %1/m, %2.s, %3.s" : "+w"(sum) : "Upl"(svptrue_b32()), "w"(a), "w"(b));
  return sum;
}
[[gnu::always_inline]] inline Vector16 plus_product(Vector16 sum, Vector16 a, Vector16 b) {
  asm volatile("fmla %0.h, %1/m, %2.h, %3.h" : "+w"(sum) : "Upl"(svptrue_b16()), "w"(a), "w"(b));
  return sum;
}

[[gnu::always_inline]] inline Vector32 low_pairs(Vector32 a, Vector32 b) {
  Vector32 x;
  asm volatile("zip1 %0.s, %1.s, %2.s" : "=w"(x) : "w"(a), "w"(b));
  return x;
}
[[gnu::always_inline]] inline Vector32 high_pairs(Vector32 a, Vector32 b) {
  Vector32 x;
  asm volatile("zip2 %0.s, %1.s, %2.s" : "=w"(x) : "w"(a), "w"(b));
  return x;
}
/// Two of the four rounds of shuffles that transpose 16 rows of 16 elements. The first two are done with rows
/// g, g + 4, g + 8 and g + 12, for every g; the other two with the vectors of one index of all four results.
[[gnu::always_inline]] inline void shuffle_rows(Vector32 (&x)[4]) {
  const Vector32 a = low_pairs(x[0], x[2]), b = high_pairs(x[0], x[2]), c = low_pairs(x[1], x[3]),
                 d = high_pairs(x[1], x[3]);
  x[0] = a, x[1] = b, x[2] = c, x[3] = d;
}

}  // namespace
}  // namespace kumiko::kernels
