// SPDX-License-Identifier: Apache-2.0
// The backward pass of one head: gradients of a block of queries and a block of keys, with five products.
//
//   S   = Q K^T      P = 2^(S - lse)       hidden scores have P = dS = 0
//   dP  = dO V^T     dS = P (dP - delta)   softcap: times its derivative
//   dV^T += dO^T P   dK^T += Q^T dS        dQ^T += K^T dS^T
//
// Keys are in the lanes of S, P, dP and dS, so that P and dS are operands of the next products as they are.
// Only dS is transposed, for dQ: 36 864 elements where the products take 24 million multiply-adds (D = 128).
// Separate walks for dQ (queries in lanes) and for dK and dV (keys in lanes) would need no transposition and
// no sums across tasks, but seven products: at most 5/7 = 0.71 of peak, where five are counted.
//
// Order of arithmetic, the same for any threads: positions are cut into blocks of kGradientBlock and these
// into pieces of kGradientPiece, both from the sequence's first on. A block pair (r, c) adds to dQ of block r
// and to dK and dV of block c, piece by piece, with queries in the outer loop and keys in the inner one; a
// product adds one chain over the visible part of its piece. The caller orders the pairs
// (attention_backward.cpp).
#pragma once

#include "kernels/gradient/gradient.h"
#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

/// Positions of a piece: a multiple of every tile's lanes and panels. S and dP of a piece and 48 keys are 72
/// KiB, its four copies of queries and dO at D = 128 384 KiB.
inline constexpr std::int64_t kGradientPiece = 192;
/// Positions of a block. A task packs the keys of one block.
inline constexpr std::int64_t kGradientBlock = 3 * kGradientPiece;

/// Positions [begin, end).
struct Positions {
  std::int64_t begin, end;
  std::int64_t count() const { return end - begin; }
};

struct GradientKernels {
  KernelSet set;  ///< of products of f32 or of bf16 pairs
  const GradientKernel* gradient;
  const PackKernel *pack_dout, *pack_dscores;
  const StoreKernel *store_dq, *store_dk, *store_dv;
};

/// Rows of a tensor of one KV head's sequence. Strides in elements.
struct GradientRows {
  void* data;
  Element element;
  std::int64_t head_stride, seq_stride;
  void* row(std::int64_t head, std::int64_t position) const {
    return element_at(element, data, head * head_stride + position * seq_stride);
  }
};

/// One KV head of one sequence. Sums are stored in tiles of positions, [dim rounded up to MR][lanes] each,
/// one after the other, so that a tile's place follows from its first position alone.
struct GradientProblem {
  HeadProblem head;
  const void* dout;
  Element dout_element;
  std::int64_t dout_head_stride, dout_seq_stride;
  GradientRows dq, dk, dv;  ///< the gradients; head_stride of dk and dv is not used
  float scale;              ///< of dq and dk: the softmax scale
  const float* lse;         ///< [group][q_len], log2 units
  const float* delta;       ///< [group][q_len]
  float *dq_sum, *dk_sum, *dv_sum;

  std::int64_t row(std::int64_t g, std::int64_t position) const { return position * head.group + g; }
  /// Blocks of a head's queries. Those of the group are numbered one head after another.
  std::int64_t q_blocks() const { return (head.q_len + kGradientBlock - 1) / kGradientBlock; }
  Positions queries(std::int64_t block) const {
    const std::int64_t first = block % q_blocks() * kGradientBlock;
    return {first, min_of(first + kGradientBlock, head.q_len)};
  }
};

/// Floats of the sums of `positions` positions with `dim` elements each.
std::int64_t gradient_floats(const GradientKernels& kernels, std::int64_t positions, std::int64_t dim);

/// Whether a query of `queries` sees a key of `keys`.
bool sees_any(const HeadProblem& head, const Positions& queries, const Positions& keys);

/// Bytes of scratch for gradient_pairs(); the scratch must be 64-byte aligned.
std::size_t gradient_scratch_bytes(const GradientKernels& kernels, std::int64_t head_dim,
                                   std::int64_t v_head_dim);
/// Adds what query blocks [first, last), the last one first, and the block of keys `keys` contribute to the
/// sums.
void gradient_pairs(const GradientKernels& kernels, const GradientProblem& problem, std::int64_t first,
                    std::int64_t last, const Positions& keys, std::byte* scratch) noexcept;

/// Sums of the gradients of scores after the softcap: the gradients of terms that are added to scores.
struct TermSums {
  double* sums;
  std::int64_t row_stride, column_stride;  ///< From a query to the next, from a key to the next; 0: one sum.
  bool is_times_distance;                  ///< Each times -|position of the query - key|, for ALiBi.
};
/// Adds those of a piece of queries, of head g of the group, and a piece of keys. `lse` and `delta` are those
/// of `queries` and replace the problem's. The scratch is that of gradient_pairs().
void gradient_terms(const GradientKernels& kernels, const GradientProblem& problem, std::int64_t g,
                    const Positions& queries, const Positions& keys, const float* lse, const float* delta,
                    const TermSums& sums, std::byte* scratch) noexcept;

/// Stores the sums of a block of positions, rounded, as dq of head g, or as dk and dv.
void store_query_gradients(const GradientKernels& kernels, const GradientProblem& problem, std::int64_t g,
                           const Positions& queries) noexcept;
void store_key_gradients(const GradientKernels& kernels, const GradientProblem& problem,
                         const Positions& keys) noexcept;

}  // namespace kumiko::kernels
