// SPDX-License-Identifier: Apache-2.0
// Register-tile micro-kernels: C[m][n] (+)= sum_k A[k][m] * B[k][n], C in f32.
//
//   A: panels of MR columns, each stored k-major        B: one panel, k-major        C: row-major
//        panel 0            panel 1                       +-------- NR --------+       +-------- NR --------+
//      k |a0 a1 .. aMR-1| k |aMR ..        |            k |b0 b1 ...     bNR-1 |     m |c00 c01 ...         |
//        |...           |   |...           |              |...                 |       |...                 |
//
// One contract serves both products of attention with the queries in the lanes (NR):
//   scores   S^T[kv][q] = K panel [head_dim][MR kv]   x  Q panel [head_dim][NR q]
//   output   O^T[d][q] += V panel [kv][MR d]          x  P^T     [kv][NR q]
// P^T is S^T overwritten by the softmax: it is never transposed.
//
// Order of arithmetic, the same in every row of every ISA: each C element is one chain of fused multiply-adds
// over k = 0, 1, ... starting from +0 (init) or from round(C * c_scale) (accumulate).
//
// A step of k is one f32 element, or (product bf16) two bf16 elements, neighbours in k, that share 4 bytes:
// the chain adds the product of the second, then of the first, each with one rounding, and takes subnormal
// operands and results as 0 (VDPBF16PS; Intel SDM, volume 2). A missing second element is 0 in A and B.
//
// Product f16, last_rows: how many rows of the last panel are computed, where the kernel takes that number
// (takes_last_rows()). The panel's other rows of C are left as they are and do not raise c_max.
//
// Product f16: a step is one f16 element. The first first_steps steps, then every kHalfChain, are a chain of
// f16 multiply-adds from +0. The sums of the first and second chain, the third and fourth, and so on are
// added in f16; this sum, or that of a last chain alone, is widened (exact) and added to C in f32. Factors,
// powers of two, undo the ranges that pack.h gave the operands: init and init_max end with C = C * c_scale[n]
// * row_scale[m].
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

/// Steps of a chain in product f16. Its error grows as the square root of its length. Ending one by
/// adding its sums to another's in f16 takes about 75 cycles of a 13x64 tile, where a step takes 13 and
/// widening sums 127 to 214 (docs/numerics.md).
inline constexpr std::int64_t kHalfChain = 128;
inline constexpr std::int64_t kHalfPair = 2 * kHalfChain;  ///< steps to one widened sum

/// Operands of one call, A and B in steps of 4 bytes (product f16: 2). Operands need the alignment of a step
/// only; b and c are faster at 64 bytes. k >= 1, m_panels >= 1. Nothing outside A[m_panels][k][MR], B[k][NR],
/// C[m_panels * MR][NR] and the vectors is read or written. (Offsets are known to the .S files.)
struct GemmArgs {
  const void* a;
  std::int64_t a_panel_stride;  ///< Bytes from one A panel to the next.
  const void* b;
  float* c;
  std::int64_t k;  ///< Steps.
  std::int64_t m_panels;
  const float* c_scale;  ///< [NR]. accumulate: factor of the old C; product f16, init: of sums, or nullptr.
  float* c_max;  ///< [NR], init_max only: raised to the largest C of each column; NaNs in C are ignored.
  const float* row_scale =
      nullptr;  ///< [m_panels * MR]. int8 scores, and product f16 (init and init_max, with c_scale).
  std::int64_t last_rows = 0;             ///< product f16: see above; 0: all rows
  std::int64_t first_steps = kHalfChain;  ///< product f16: steps of the first chain, 1 to kHalfChain
  /// product f16: bytes of A from one step to the next, so that rows need not be packed; 0: MR elements.
  std::int64_t a_step_stride = 0;
};
static_assert(offsetof(GemmArgs, a_panel_stride) == 8 && offsetof(GemmArgs, b) == 16 &&
              offsetof(GemmArgs, c) == 24 && offsetof(GemmArgs, k) == 32 &&
              offsetof(GemmArgs, m_panels) == 40 && offsetof(GemmArgs, c_scale) == 48 &&
              offsetof(GemmArgs, c_max) == 56 && offsetof(GemmArgs, row_scale) == 64 &&
              offsetof(GemmArgs, last_rows) == 72 && offsetof(GemmArgs, first_steps) == 80 &&
              offsetof(GemmArgs, a_step_stride) == 88);

using GemmFunction = void (*)(const GemmArgs*) noexcept;

struct GemmKernel {
  const char* name;
  Isa isa;
  Element product;  ///< What A and B hold.
  int mr;
  int nr;
  GemmFunction init;        ///< C = A B
  GemmFunction init_max;    ///< C = A B, c_max = max(c_max, columns of C)
  GemmFunction accumulate;  ///< C = C * c_scale + A B

  /// Whether GemmArgs::last_rows may be `rows`. On A64FX fewer than 9 rows of two vectors have too few chains
  /// for its two pipes: 13 rows take no longer.
  bool takes_last_rows(std::int64_t rows) const {
    return product == Element::f16 && rows < mr && rows >= (isa == Isa::reference ? 1 : 9);
  }
};

/// The f32 product with A transposed, C[m][n] (+)= sum_k A[m][k] * B[k][n], where A is what PackKeyArgs has
/// packed: blocks of MR steps, in each of which row m's MR elements follow those of row m - 1. So values that
/// are elements of keys (MLA) need no panels of their own. Arguments as above, but a_panel_stride is the
/// bytes from one block to the next; panel p begins p * MR * MR elements after `a`. Same order of arithmetic.
struct TransposedGemmKernel {
  const char* name;
  Isa isa;
  int mr;
  int nr;
  GemmFunction init;        ///< C = A B
  GemmFunction accumulate;  ///< C = C * c_scale + A B
};
std::span<const TransposedGemmKernel> transposed_gemm_kernels();
/// The row of `isa`, or of its base, with that NR; nullptr if there is none, or `product` is not f32.
const TransposedGemmKernel* find_transposed_gemm(Isa isa, Element product, int nr);

/// All rows of the table, widest first within an ISA and product. These share MR; their NR are 1, 2, 3, ...
/// times the lanes of the SoftmaxKernel for the same product.
std::span<const GemmKernel> gemm_kernels();
/// The row of `isa`, or of its base, with that NR; nullptr if there is none.
const GemmKernel* find_gemm(Isa isa, Element product, int nr);

}  // namespace kumiko::kernels
