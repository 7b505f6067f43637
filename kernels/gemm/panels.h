// SPDX-License-Identifier: Apache-2.0
// One register tile with a leading dimension: C[m][n] (+)= sum_k A[k][m] * B[k][n], of two types.
//
//   A: one panel, k-major      B: one panel, k-major      C: m <= MR rows of n <= NR, ldc bytes apart
//      k |a0 a1 .. aMR-1|         k |b0 b1 ..   bNR-1|       |c00 c01 ..   |........
//        |...           |           |...             |       |c10 ..       |........
//
// The general form of the products of gemm.h. There C has ldc = NR * 4, m = MR, n = NR; a call takes many A
// panels; and the rescaling and the column maxima of the online softmax are built in. Panels are always
// whole: elements past m and n may hold anything and only reach registers. C past m and n is not touched.
//
// Order of arithmetic, the same in every row of a type:
//   f16_blocked
//          A and B are f16, C is f32. Each block of k_block steps (the last may be shorter) is a chain of
//          f16 steps from +0, whose sum is widened (exact). init: C is the first block's sum, and
//          C = round(C + sum) for each further block; accumulate: C = round(C + sum) for all.
//   i8     A and B are int8, C is int32: sums modulo 2^32. k counts bytes, which lie in groups of four:
//          A [ceil(k/4)][MR][4], B [ceil(k/4)][NR][4], with zeros from k on in at least one of the two.
//          The caller applies scales: if row m of A has the scale a_scale[m] and column n of B has
//          b_scale[n], the product is C[m][n] * (a_scale[m] * b_scale[n]). Scales per block of k take one
//          call per block and a sum in f32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu.h"

namespace kumiko::kernels {

enum class PanelType : std::uint8_t { f16_blocked, i8 };
const char* name(PanelType type);

/// Operands of one tile. Any alignment of an element works; b and c are faster at 64 bytes.
/// k, k_block >= 1; 1 <= m <= MR; 1 <= n <= NR. (Offsets are known to the .S files.)
struct PanelArgs {
  const void* a;
  const void* b;
  void* c;
  std::int64_t ldc;  ///< Bytes from one row of C to the next.
  std::int64_t k;
  std::int64_t m;
  std::int64_t n;
  std::int64_t k_block;  ///< f16_blocked only: steps of k from one promotion to the next.
};
static_assert(offsetof(PanelArgs, b) == 8 && offsetof(PanelArgs, c) == 16 && offsetof(PanelArgs, ldc) == 24 &&
              offsetof(PanelArgs, k) == 32 && offsetof(PanelArgs, m) == 40 && offsetof(PanelArgs, n) == 48 &&
              offsetof(PanelArgs, k_block) == 56);

using PanelFunction = void (*)(const PanelArgs*) noexcept;

struct PanelKernel {
  const char* name;
  Isa isa;
  PanelType type;
  int mr;
  int nr;
  PanelFunction init;        ///< C = A B
  PanelFunction accumulate;  ///< C = C + A B
};

/// All rows of the table. An ISA has any number of rows of a type, the preferred one first; the reference has
/// all types.
std::span<const PanelKernel> panel_kernels();
/// The first row of `isa`, or of its base, with that type; nullptr if there is none.
const PanelKernel* find_panel(Isa isa, PanelType type);

}  // namespace kumiko::kernels
