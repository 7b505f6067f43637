// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <span>

#include "outputs.h"

namespace kumiko::python {

AttentionCall::AttentionCall(nb::handle q, nb::handle k, nb::handle v, Layout layout)
    : query_(q), layout_(layout) {
  args.q = input_of(q_.emplace("q", q), layout);
  args.k = input_of(k_.emplace("k", k), layout);
  args.v = input_of(v_.emplace("v", v), layout);
}

void AttentionCall::set(const Settings& settings) {
  set_visibility(settings, &args);
  args.scale = scale_of(settings.scale);
  args.softcap = number_of("softcap", settings.softcap);
  args.pipeline = pipeline_of(settings.pipeline);
  const std::int64_t batch = args.q.shape[0], kv_heads = args.k.shape[1];
  if (!settings.seqused_k.is_none()) {
    seqused_k = integers_of("seqused_k", settings.seqused_k, batch, "the batch of q");
    args.seqused_k = seqused_k.data();
  }
  if (!settings.kv_domains.is_none()) {
    kv_domains_ = integers_of("kv_domains", settings.kv_domains, batch * kv_heads, "batch times kv_heads");
    args.kv_domains = kv_domains_.data();
  }
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

std::array<std::int64_t, 4> AttentionCall::out_shape() const {
  const auto& q = args.q.shape;
  if (layout_ == Layout::bhsd) return {q[0], q[1], q[2], args.v.shape[3]};
  return {q[0], q[2], q[1], args.v.shape[3]};
}

void AttentionCall::set_out(nb::handle out) {
  out_ = out.is_none() ? new_tensor(query_, out_shape()) : nb::borrow(out);
  args.out = output_of(out_tensor_.emplace("out", out_, Access::write), layout_);
}

void AttentionCall::plan_out() {
  const auto [batch, first, second, dim] = out_shape();
  args.out = layout_ == Layout::bhsd ? Tensor::bhsd(nullptr, batch, first, second, dim, args.q.dtype)
                                     : Tensor::bshd(nullptr, batch, first, second, dim, args.q.dtype);
}

void AttentionCall::set_lse(nb::handle lse, bool is_returned) {
  if (lse.is_none() && !is_returned) return;
  const std::array<std::int64_t, 3> shape = {args.q.shape[0], args.q.shape[1], args.q.shape[2]};
  lse_ = lse.is_none() ? new_float32_tensor(query_, shape) : nb::borrow(lse);
  args.lse = lse_of(lse_tensor_.emplace("lse", lse_, Access::write), args.q);
}

nb::object AttentionCall::result() const {
  const nb::object out = finished(query_, out_);
  if (!lse_.is_valid()) return out;
  return nb::make_tuple(out, finished(query_, lse_));
}

}  // namespace kumiko::python
