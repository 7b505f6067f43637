// SPDX-License-Identifier: Apache-2.0
#include "call.h"

#include <algorithm>
#include <span>

#include "key_lists.h"

namespace kumiko::python {

AttentionCall::AttentionCall(nb::handle q, nb::handle k, nb::handle v, Layout layout)
    : query_(q), value_(v), layout_(layout) {
  args.q = query_or_key_of(q_.emplace("q", q), layout);
  args.k = query_or_key_of(k_.emplace("k", k), layout);
  args.v = input_of(v_.emplace("v", v), layout);
}

void AttentionCall::set(const Settings& settings) {
  set_visibility(settings.causal, settings.causal_alignment, settings.window, &args);
  args.scale = scale_of(settings.scale);
  args.softcap = static_cast<float>(number_of("softcap", settings.softcap));
  args.lse_with_sink = flag_of("lse_with_sink", settings.lse_with_sink);
  args.lse_base = lse_base_of(settings.lse_base);
  args.window_sink_tokens = integer_of("window_sink_tokens", settings.window_sink_tokens);
  args.bsr_rows = integer_of("bsr_rows", settings.bsr_rows);
  args.bsr_keys = integer_of("bsr_keys", settings.bsr_keys);
  args.pipeline = pipeline_of(settings.pipeline);
  args.key_layout = key_layout_of(settings.key_layout);
  args.precision = precision_of(settings.precision);
  if (!settings.max_pages.is_none()) max_pages_ = integer_of("max_pages", settings.max_pages);
  if (!settings.cu_seqlens_q.is_none()) {
    numbers.cu_seqlens_q = integers_of("cu_seqlens_q", settings.cu_seqlens_q);
    if (numbers.cu_seqlens_q.size() < 2)
      wrong_value("cu_seqlens_q", std::to_string(numbers.cu_seqlens_q.size()) + " integers",
                  "2 or more, one more than sequences");
    args.cu_seqlens_q = numbers.cu_seqlens_q.data();
    args.num_sequences = static_cast<std::int64_t>(numbers.cu_seqlens_q.size()) - 1;
  }
  if (!settings.cu_seqlens_k.is_none()) {
    numbers.cu_seqlens_k =
        integers_of("cu_seqlens_k", settings.cu_seqlens_k, sequences() + 1, "one more than sequences");
    args.cu_seqlens_k = numbers.cu_seqlens_k.data();
  }
  if (!settings.seqused_k.is_none()) {
    numbers.seqused_k = lengths_of(settings.seqused_k, sequences());
    args.seqused_k = numbers.seqused_k.data();
  }
  if (!settings.causal_sequences.is_none()) {
    numbers.causal_sequences =
        flags_of("causal_sequences", settings.causal_sequences, sequences(), "one for each sequence");
    args.causal_sequences = numbers.causal_sequences.data();
  }
  if (!settings.prefix_lens.is_none()) {
    numbers.prefix_lens =
        integers_of("prefix_lens", settings.prefix_lens, sequences(), "one for each sequence");
    args.prefix_lens = numbers.prefix_lens.data();
  }
  if (!settings.kv_domains.is_none()) {
    numbers.kv_domains = integers_of("kv_domains", settings.kv_domains, sequences() * args.k.shape[1],
                                     "one for each KV head of each sequence");
    args.kv_domains = numbers.kv_domains.data();
  }
}

void AttentionCall::set(const AttentionArgs& planned) {
  args.is_causal = planned.is_causal;
  args.causal_alignment = planned.causal_alignment;
  args.window_left = planned.window_left;
  args.window_right = planned.window_right;
  args.scale = planned.scale;
  args.softcap = planned.softcap;
  args.lse_with_sink = planned.lse_with_sink;
  args.lse_base = planned.lse_base;
  args.window_sink_tokens = planned.window_sink_tokens;
  args.bsr_rows = planned.bsr_rows;
  args.bsr_keys = planned.bsr_keys;
  args.causal_sequences = planned.causal_sequences;
  args.prefix_lens = planned.prefix_lens;
  args.pipeline = planned.pipeline;
  args.key_layout = planned.key_layout;
  args.precision = planned.precision;
  args.seqused_k = planned.seqused_k;
  args.cu_seqlens_q = planned.cu_seqlens_q;
  args.cu_seqlens_k = planned.cu_seqlens_k;
  args.num_sequences = planned.num_sequences;
  if (planned.kv_indptr) planned_max_pages_ = planned.max_pages;
}

void AttentionCall::set(const Terms& terms) {
  set_pages(terms.block_table, terms.kv_indptr);
  const std::array<std::int64_t, 4> scores = {args.q.shape[0], args.q.shape[1], args.q.shape[2], longest()};
  if (!terms.bias.is_none()) args.bias = score_term_of(bias_.emplace("bias", terms.bias), scores);
  if (!terms.mask.is_none()) {
    mask_.emplace("mask", terms.mask);
    if (!mask_->is(dlpack::kBool, 8)) wrong_value("mask.dtype", mask_->dtype_name(), "bool");
    args.mask = score_term_of(*mask_, scores);
  }
  if (!terms.tree_mask.is_none()) tree_mask_of(tree_mask_.emplace("tree_mask", terms.tree_mask), &args);
  if (terms.bsr_indptr.is_none() != terms.bsr_indices.is_none())
    wrong_value(terms.bsr_indptr.is_none() ? "bsr_indptr" : "bsr_indices", "None", "given, as the other is");
  if (!terms.bsr_indptr.is_none())
    bsr_lists_of(bsr_indptr_.emplace("bsr_indptr", terms.bsr_indptr),
                 bsr_indices_.emplace("bsr_indices", terms.bsr_indices), &args);
  if (!terms.alibi_slopes.is_none())
    slopes_of(slopes_.emplace("alibi_slopes", terms.alibi_slopes), sequences(), &args);
  if (!terms.sinks.is_none()) sinks_of(sinks_.emplace("sinks", terms.sinks), &args);
  if (!terms.q_scale.is_none())
    args.q_scale = scales_of(q_scale_.emplace("q_scale", terms.q_scale), args.q.shape);
  if (!terms.k_scale.is_none())
    args.k_scale = scales_of(k_scale_.emplace("k_scale", terms.k_scale), args.k.shape);
}

void AttentionCall::set_pages(nb::handle block_table, nb::handle kv_indptr) {
  if (!block_table.is_none()) block_table_.emplace("block_table", block_table);
  if (kv_indptr.is_none()) {
    if (block_table_ && planned_max_pages_) wrong_kv_indptr();
    if (block_table_) block_table_of(*block_table_, sequences(), &args);
    if (max_pages_) wrong_value("max_pages", std::to_string(*max_pages_), "None, as kv_indptr is None");
    return;
  }
  numbers.kv_indptr = kv_indptr_of(kv_indptr, sequences());
  args.kv_indptr = numbers.kv_indptr.data();
  if (!block_table_) return;  // which the library refuses
  args.max_pages = max_pages_.value_or(planned_max_pages_.value_or(most_pages(numbers.kv_indptr)));
  page_lists_of(*block_table_, numbers.kv_indptr, &args);
}

std::int64_t AttentionCall::longest() const {
  std::int64_t most = 0;
  if (args.block_table) {
    if (__builtin_mul_overflow(args.max_pages, args.k.shape[2], &most))
      wrong_value(args.kv_indptr ? "max_pages" : "block_table.shape[1]", std::to_string(args.max_pages),
                  "pages whose keys can be counted");
    return most;
  }
  if (!args.cu_seqlens_k) return args.k.shape[2];
  for (std::int64_t b = 0; b < sequences(); ++b)
    most = std::max(most, std::int64_t{args.cu_seqlens_k[b + 1]} - args.cu_seqlens_k[b]);
  return most;
}

std::array<std::int64_t, 4> ordered(Layout layout, std::int64_t batch, std::int64_t heads, std::int64_t seq,
                                    std::int64_t dim) {
  if (layout == Layout::bhsd) return {batch, heads, seq, dim};
  return {batch, seq, heads, dim};
}

Tensor without_memory(Layout layout, const std::array<std::int64_t, 4>& shape, DataType dtype) {
  const auto [batch, heads, seq, dim] = shape;
  return layout == Layout::bhsd ? Tensor::bhsd(nullptr, batch, heads, seq, dim, dtype)
                                : Tensor::bshd(nullptr, batch, seq, heads, dim, dtype);
}

std::array<std::int64_t, 4> AttentionCall::out_shape() const {
  const auto& q = args.q.shape;
  return ordered(layout_, q[0], q[1], q[2], args.v.shape[3]);
}

void AttentionCall::set_out(nb::handle out) {
  const nb::handle like = args.q.dtype == DataType::i8 ? value_ : query_;
  out_.emplace("out", out, like, out_shape(), Output::Type::as_like);
  args.out = output_of(out_->tensor(), layout_);
}

void AttentionCall::plan_out() {
  const auto& q = args.q.shape;
  args.out = without_memory(layout_, {q[0], q[1], q[2], args.v.shape[3]}, args.v.dtype);
}

void AttentionCall::set_row_output(const char* name, nb::handle given, bool is_returned,
                                   std::optional<Output>* output, LseView* view) {
  if (given.is_none() && !is_returned) return;
  const auto& shape = args.q.shape;
  output->emplace(name, given, query_, std::span(shape).first(3), Output::Type::float32);
  *view = lse_of((*output)->tensor(), shape, "q");
}

void AttentionCall::set(const RowOutputs& rows) {
  set_row_output("lse", rows.lse, flag_of("return_lse", rows.return_lse), &lse_, &args.lse);
  set_row_output("row_max", rows.row_max, flag_of("return_row_max", rows.return_row_max), &row_max_,
                 &args.row_max);
}

nb::object AttentionCall::result() const {
  nb::object out = out_->result();
  if (lse_ && row_max_) return nb::make_tuple(out, lse_->result(), row_max_->result());
  if (lse_ || row_max_) return nb::make_tuple(out, (lse_ ? lse_ : row_max_)->result());
  return out;
}

}  // namespace kumiko::python
