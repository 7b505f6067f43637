// SPDX-License-Identifier: Apache-2.0
// Pieces of queries and keys, packed as operands of the gradients' products (backward.cpp).
#pragma once

#include "kernels/pipelines/backward.h"
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {

/// Calls body(first, used, nr) for each tile of positions [from, to), from the first one on.
template <class Body>
void for_each_tile(const KernelSet& kernels, std::int64_t from, std::int64_t to, Body body) {
  for (std::int64_t at = from; at < to;) {
    const std::int64_t used = rows_of_tile(kernels, at - from, to - from);
    body(at, used, round_up(used, kernels.lanes));
    at += used;
  }
}
template <class Body>
void for_each_piece(const Positions& block, Body body) {
  for (std::int64_t at = block.begin; at < block.end; at += kGradientPiece)
    body(Positions{at, min_of(at + kGradientPiece, block.end)});
}

/// Panels of a product's A operand, and whether all elements were finite before they were packed.
struct GradientPanels {
  float* data;
  bool is_finite;
};

class GradientOperands {
 public:
  static constexpr std::int64_t kPieces = kGradientBlock / kGradientPiece;

  /// Takes its scratch from `carver`.
  GradientOperands(const GradientKernels& kernels, std::int64_t head_dim, std::int64_t v_head_dim,
                   Carver* carver);
  /// The head of the group whose rows the following calls pack.
  void begin(const GradientProblem& problem, std::int64_t g) {
    problem_ = &problem;
    head_ = &problem.head;
    g_ = g;
  }

  std::int64_t row(std::int64_t position) const { return problem_->row(g_, position); }
  const void* q_row(std::int64_t position) const { return head_->q_row(set_.types.query, row(position)); }
  const void* dout_row(std::int64_t position) const {
    return element_at(problem_->dout_element, problem_->dout,
                      g_ * problem_->dout_head_stride + position * problem_->dout_seq_stride);
  }
  const void* key_row(std::int64_t key) const { return head_->k.row(set_.types.key, key); }
  const void* value_row(std::int64_t key) const { return head_->v.row(set_.types.value, key); }

  /// Piece p of the block of keys, as operands B of the first two products.
  void pack_tiles_of_keys(const Positions& piece, std::int64_t p);
  /// The same, and as operand A of dQ's product.
  void pack_keys(const Positions& piece, std::int64_t p);
  /// A piece of queries and of dO, as operands A of the first two products.
  void pack_panels_of_queries(const Positions& piece);
  /// The same, and as operands A of the products of dV and dK.
  void pack_queries(const Positions& piece);

  // By piece of the block: B panels of keys (scaled) and values, A panels of keys.
  float *keys[kPieces], *values[kPieces];
  GradientPanels key_values[kPieces];
  // Of a piece of queries: A panels of the first products and of the last ones.
  float *q, *dout;
  GradientPanels q_values, dout_values;

 private:
  void pack_values(const PackKernel& pack, const void* rows, std::int64_t stride, std::int64_t count,
                   std::int64_t dim, GradientPanels* panels) const;

  const GradientKernels& kernels_;
  const KernelSet& set_;
  const std::int64_t dim_, v_dim_;
  const GradientProblem* problem_ = nullptr;
  const HeadProblem* head_ = nullptr;
  std::int64_t g_ = 0;
};

}  // namespace kumiko::kernels
