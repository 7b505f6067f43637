// SPDX-License-Identifier: Apache-2.0
// One KV head of a run of attention_backward, and its rows.
#include "runtime/backward_run.h"

#include <cmath>
#include <limits>

#include "runtime/validate.h"

namespace kumiko {
namespace {

using kernels::Element;
using kernels::element_at;

constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
void widen(const void* row, std::int64_t dim, float* to) {
  for (std::int64_t d = 0; d < dim; ++d) to[d] = kernels::to_float(static_cast<const T*>(row)[d]);
}
void widen(Element element, const void* row, std::int64_t dim, float* to) {
  if (element == Element::f32) return widen<float>(row, dim, to);
  if (element == Element::bf16) return widen<kernels::Bf16>(row, dim, to);
  return widen<kernels::F16>(row, dim, to);
}

/// Sum of products, exact but for the rounding of f64 sums: 8 chains over d mod 8, added in order.
double dot(const float* a, const float* b, std::int64_t dim) {
  constexpr std::int64_t kChains = 8;
  double chain[kChains] = {};
  std::int64_t d = 0;
  for (; d + kChains <= dim; d += kChains) {
    for (std::int64_t i = 0; i < kChains; ++i)
      chain[i] += static_cast<double>(a[d + i]) * static_cast<double>(b[d + i]);
  }
  for (std::int64_t i = 0; d < dim; ++d, ++i)
    chain[i] += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  double sum = 0.0;
  for (const double c : chain) sum += c;
  return sum;
}

/// log(exp(a) + exp(b))
double log_add(double a, double b) {
  const double most = std::max(a, b);
  return std::isinf(most) ? most : most + std::log(std::exp(a - most) + std::exp(b - most));
}

/// The value of query `i` of query head `head` of a unit, whose first value is at `data`.
double at_row(const float* data, const LseView& view, const Tensor& out, std::int64_t head, std::int64_t i) {
  const Layout layout = lse_layout_of(view, out);
  return static_cast<double>(data[head * layout.head + i * layout.seq]);
}

}  // namespace

GradientUnit BackwardRun::make_unit(std::int64_t number) const {
  const Problem& problem = plan.problem;
  const std::int64_t b = number / problem.kv_heads, kv_head = number % problem.kv_heads;
  GradientUnit unit;
  unit.capacity = problem.capacity(b);
  kernels::GradientProblem& g = unit.gradient;
  g.head = problem.head(operands, b, kv_head);
  const Sequence sequence = problem.sequence(b);
  const std::int64_t q_head = kv_head * problem.group(), q_batch = problem.has_cu_seqlens_q ? 0 : b,
                     k_batch = problem.has_cu_seqlens_k ? 0 : b;
  const auto at_query = [&](const Layout& l) {
    return q_batch * l.batch + q_head * l.head + sequence.q_begin * l.seq;
  };
  const auto rows_of = [](const Tensor& tensor, const Layout& l, std::int64_t at) {
    const Element element = element_of(tensor.dtype);
    return kernels::GradientRows{element_at(element, tensor.data, at), element, l.head, l.seq};
  };
  const auto rows_of_keys = [&](const Tensor& tensor) {
    const Layout l = layout_of(tensor.shape, tensor.stride);
    return rows_of(tensor, l, k_batch * l.batch + kv_head * l.head + sequence.kv_begin * l.seq);
  };
  const auto row_values = [&](const LseView& view) {
    return view.data ? view.data + at_query(lse_layout_of(view, args.forward.out)) : nullptr;
  };
  const Layout dout = layout_of(args.dout.shape, args.dout.stride),
               dq = layout_of(args.dq.shape, args.dq.stride);
  g.dout_element = element_of(args.dout.dtype);
  g.dout = element_at(g.dout_element, args.dout.data, at_query(dout));
  g.dout_head_stride = dout.head, g.dout_seq_stride = dout.seq;
  g.dq = rows_of(args.dq, dq, at_query(dq));
  g.dk = rows_of_keys(args.dk);
  g.dv = rows_of_keys(args.dv);
  g.scale = args.forward.scale == 0.0f
                ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(problem.head_dim)))
                : args.forward.scale;
  unit.dlse = row_values(args.dlse);
  unit.given_delta = row_values(args.delta);
  unit.all_q_blocks = g.head.group * g.q_blocks();
  unit.k_blocks = ceil_div(g.head.kv_len, kernels::kGradientBlock);
  if (!state.sink_sums.empty())
    unit.sink_sums = state.sink_sums.data() + (b * problem.q_heads + q_head) * plan.q_blocks();
  return unit;
}

double BackwardRun::begin_row(const GradientUnit& unit, std::int64_t g, std::int64_t i, float* lse_to,
                              float* delta_to) const {
  const kernels::HeadProblem& head = unit.gradient.head;
  const kernels::ElementTypes& types = plan.kernels.set.types;
  const std::int64_t row = unit.gradient.row(g, i);
  const double unit_of_lse = head.lse_form.is_base_2 ? kLog2e : 1.0,
               given = static_cast<double>(head.lse_of(row)) / unit_of_lse,
               sink = head.sinks ? static_cast<double>(head.sinks[g]) : -kInf,
               lse = head.sinks && !head.lse_form.with_sink ? log_add(given, sink) : given,
               dlse = unit.dlse ? at_row(unit.dlse, args.dlse, args.forward.out, g, i) : 0.0;
  double delta = 0.0, sink_gradient = 0.0;
  if (unit.given_delta) {
    delta = at_row(unit.given_delta, args.delta, args.forward.out, g, i);
  } else {
    float out[kMaxHeadDim], dout[kMaxHeadDim];
    widen(types.output, head.out_row(types.output, row), head.v_head_dim, out);
    widen(unit.gradient.dout_element,
          element_at(unit.gradient.dout_element, unit.gradient.dout,
                     g * unit.gradient.dout_head_stride + i * unit.gradient.dout_seq_stride),
          head.v_head_dim, dout);
    delta = dot(out, dout, head.v_head_dim);
  }
  if (sink != -kInf) {
    const double weight = sink == lse ? 1.0 : std::exp(sink - lse);
    sink_gradient = -weight * delta;
    if (unit.dlse && head.lse_form.with_sink) sink_gradient += weight * dlse * unit_of_lse;
  }
  // An lse without the sink has other weights than the output: larger by exp(lse - given).
  if (unit.dlse && given != -kInf) delta -= dlse * unit_of_lse * std::exp(lse - given);
  *lse_to = static_cast<float>(lse * kLog2e);
  *delta_to = static_cast<float>(delta);
  return sink_gradient;
}

}  // namespace kumiko
