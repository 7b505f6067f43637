// SPDX-License-Identifier: Apache-2.0
// Stores tiles of sums as rows of gradients.
#include "kernels/pipelines/backward_operands.h"

namespace kumiko::kernels {
namespace {

/// Stores the tiles of sums of `positions` to rows of `rows`.
void store_rows(const KernelSet& set, const StoreKernel& store, const GradientRows& rows, std::int64_t head,
                const Positions& positions, std::int64_t dim, const float* sum, float factor) {
  alignas(64) float factors[kMaxLanes];
  for (float& f : factors) f = factor;
  for_each_piece(positions, [&](const Positions& piece) {
    for_each_tile(set, piece.begin, piece.end, [&](std::int64_t first, std::int64_t used, std::int64_t nr) {
      void* to[kMaxLanes];
      for (std::int64_t n = 0; n < used; ++n) to[n] = rows.row(head, first + n);
      store.tile({sum + first * round_up(dim, set.mr), factors, nr, dim, to, used});
    });
  });
}

}  // namespace

std::int64_t gradient_floats(const GradientKernels& kernels, std::int64_t positions, std::int64_t dim) {
  return round_up(positions, kernels.set.lanes) * round_up(dim, kernels.set.mr);
}

void store_query_gradients(const GradientKernels& kernels, const GradientProblem& problem, std::int64_t g,
                           const Positions& queries) noexcept {
  const std::int64_t dim = problem.head.head_dim;
  store_rows(kernels.set, *kernels.store_dq, problem.dq, g, queries, dim,
             problem.dq_sum + g * gradient_floats(kernels, problem.head.q_len, dim), problem.scale);
}

void store_key_gradients(const GradientKernels& kernels, const GradientProblem& problem,
                         const Positions& keys) noexcept {
  store_rows(kernels.set, *kernels.store_dk, problem.dk, 0, keys, problem.head.head_dim, problem.dk_sum,
             problem.scale);
  store_rows(kernels.set, *kernels.store_dv, problem.dv, 0, keys, problem.head.v_head_dim, problem.dv_sum,
             1.0f);
}

}  // namespace kumiko::kernels
