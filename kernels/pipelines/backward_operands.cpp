// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/backward_operands.h"

#include <cmath>

namespace kumiko::kernels {

GradientOperands::GradientOperands(const GradientKernels& kernels, std::int64_t head_dim,
                                   std::int64_t v_head_dim, Carver* carver)
    : kernels_(kernels), set_(kernels.set), dim_(head_dim), v_dim_(v_head_dim) {
  const std::int64_t rows = kGradientPiece, dims = round_up(dim_, set_.mr),
                     v_dims = round_up(v_dim_, set_.mr);
  for (std::int64_t p = 0; p < kPieces; ++p) {
    keys[p] = carver->take<float>(rows * set_.steps(dim_));
    values[p] = carver->take<float>(rows * set_.steps(v_dim_));
    key_values[p].data = carver->take<float>(set_.steps(rows) * dims);
  }
  q = carver->take<float>(rows * set_.steps(dim_));
  dout = carver->take<float>(rows * set_.steps(v_dim_));
  q_values.data = carver->take<float>(set_.steps(rows) * dims);
  dout_values.data = carver->take<float>(set_.steps(rows) * v_dims);
}

void GradientOperands::pack_tiles_of_keys(const Positions& piece, std::int64_t p) {
  float *to_keys = keys[p], *to_values = values[p];
  for_each_tile(set_, piece.begin, piece.end, [&](std::int64_t first, std::int64_t used, std::int64_t nr) {
    const void* rows[kMaxLanes];
    for (std::int64_t n = 0; n < used; ++n) rows[n] = key_row(first + n);
    set_.pack->query({rows, used, nr, dim_, set_.query_scale(head_->q_scale), to_keys});
    to_keys += nr * set_.steps(dim_);
    for (std::int64_t n = 0; n < used; ++n) rows[n] = value_row(first + n);
    set_.pack->query({rows, used, nr, v_dim_, 1.0f, to_values});
    to_values += nr * set_.steps(v_dim_);
  });
}

void GradientOperands::pack_keys(const Positions& piece, std::int64_t p) {
  pack_tiles_of_keys(piece, p);
  pack_values(*set_.pack, key_row(piece.begin), head_->k.stride, piece.count(), dim_, &key_values[p]);
}

void GradientOperands::pack_panels_of_queries(const Positions& piece) {
  set_.pack->key({q_row(piece.begin), head_->q_seq_stride, piece.count(), dim_, q});
  kernels_.pack_dout->key({dout_row(piece.begin), problem_->dout_seq_stride, piece.count(), v_dim_, dout});
}

void GradientOperands::pack_queries(const Positions& piece) {
  pack_panels_of_queries(piece);
  pack_values(*set_.pack, q_row(piece.begin), head_->q_seq_stride, piece.count(), dim_, &q_values);
  pack_values(*kernels_.pack_dout, dout_row(piece.begin), problem_->dout_seq_stride, piece.count(), v_dim_,
              &dout_values);
}

/// Elements that are not finite become 0 here and are added one by one afterwards: 0 * NaN would reach pairs
/// that do not see each other.
void GradientOperands::pack_values(const PackKernel& pack, const void* rows, std::int64_t stride,
                                   std::int64_t count, std::int64_t dim, GradientPanels* panels) const {
  panels->is_finite = pack.value({rows, stride, count, dim, panels->data});
  if (panels->is_finite) return;
  const std::int64_t lanes = set_.steps(count) * round_up(dim, set_.mr);
  if (set_.is_in_pairs()) {
    auto* const elements = reinterpret_cast<Bf16*>(panels->data);
    for (std::int64_t i = 0; i < 2 * lanes; ++i)
      if (!std::isfinite(to_float(elements[i]))) elements[i] = Bf16{};
    return;
  }
  for (std::int64_t i = 0; i < lanes; ++i)
    if (!std::isfinite(panels->data[i])) panels->data[i] = 0.0f;
}

}  // namespace kumiko::kernels
