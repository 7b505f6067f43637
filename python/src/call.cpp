// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <span>

namespace kumiko::python {

AttentionCall::AttentionCall(nb::handle q, nb::handle k, nb::handle v, Layout layout)
    : query_(q), layout_(layout) {
  args.q = input_of(q_.emplace("q", q), layout);
  args.k = input_of(k_.emplace("k", k), layout);
  args.v = input_of(v_.emplace("v", v), layout);
}

void AttentionCall::set(const Settings& settings) {
  set_visibility(settings.causal, settings.causal_alignment, settings.window, &args);
  args.scale = scale_of(settings.scale);
  args.softcap = static_cast<float>(number_of("softcap", settings.softcap));
  args.pipeline = pipeline_of(settings.pipeline);
  const std::int64_t batch = args.q.shape[0], kv_heads = args.k.shape[1];
  if (!settings.seqused_k.is_none()) {
    seqused_k = lengths_of(settings.seqused_k, batch);
    args.seqused_k = seqused_k.data();
  }
  if (!settings.kv_domains.is_none()) {
    kv_domains_ = integers_of("kv_domains", settings.kv_domains, batch * kv_heads, "batch times kv_heads");
    args.kv_domains = kv_domains_.data();
  }
}

void AttentionCall::set(const AttentionArgs& planned) {
  args.is_causal = planned.is_causal;
  args.causal_alignment = planned.causal_alignment;
  args.window_left = planned.window_left;
  args.window_right = planned.window_right;
  args.scale = planned.scale;
  args.softcap = planned.softcap;
  args.pipeline = planned.pipeline;
  args.seqused_k = planned.seqused_k;
}

void AttentionCall::set(const Terms& terms) {
  const std::array<std::int64_t, 4> scores = {args.q.shape[0], args.q.shape[1], args.q.shape[2],
                                              args.k.shape[2]};
  if (!terms.bias.is_none()) args.bias = score_term_of(bias_.emplace("bias", terms.bias), scores);
  if (!terms.mask.is_none()) {
    mask_.emplace("mask", terms.mask);
    if (!mask_->is(dlpack::kBool, 8)) wrong_value("mask.dtype", mask_->dtype_name(), "bool");
    args.mask = score_term_of(*mask_, scores);
  }
  if (!terms.alibi_slopes.is_none())
    slopes_of(slopes_.emplace("alibi_slopes", terms.alibi_slopes), args.q, &args);
}

std::array<std::int64_t, 4> ordered(Layout layout, std::int64_t batch, std::int64_t heads, std::int64_t seq,
                                    std::int64_t dim) {
  if (layout == Layout::bhsd) return {batch, heads, seq, dim};
  return {batch, seq, heads, dim};
}

std::array<std::int64_t, 4> AttentionCall::out_shape() const {
  const auto& q = args.q.shape;
  return ordered(layout_, q[0], q[1], q[2], args.v.shape[3]);
}

void AttentionCall::set_out(nb::handle out) {
  out_.emplace("out", out, query_, out_shape(), Output::Type::as_like);
  args.out = output_of(out_->tensor(), layout_);
}

void AttentionCall::plan_out() {
  const auto [batch, first, second, dim] = out_shape();
  args.out = layout_ == Layout::bhsd ? Tensor::bhsd(nullptr, batch, first, second, dim, args.q.dtype)
                                     : Tensor::bshd(nullptr, batch, first, second, dim, args.q.dtype);
}

void AttentionCall::set_lse(nb::handle lse, bool is_returned) {
  if (lse.is_none() && !is_returned) return;
  const auto& shape = args.q.shape;
  lse_.emplace("lse", lse, query_, std::span(shape).first(3), Output::Type::float32);
  args.lse = lse_of(lse_->tensor(), shape, "q");
}

nb::object AttentionCall::result() const {
  if (!lse_) return out_->result();
  return nb::make_tuple(out_->result(), lse_->result());
}

}  // namespace kumiko::python
