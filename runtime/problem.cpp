// SPDX-License-Identifier: Apache-2.0
#include "runtime/problem.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/pipelines/decode.h"
#include "runtime/validate.h"

namespace kumiko {
namespace {

using kernels::Element;
using kernels::element_at;
using kernels::min_of;

template <class View>
Layout layout_of(const View& view) {
  return kumiko::layout_of(view.shape, view.stride);
}

/// Stride of a view of scores from one key to the next.
std::int64_t key_stride(const ConstTensor& view) {
  return view.shape[3] > 1 ? view.stride[3] : 0;
}

/// The fields that all three calls have.
template <class Args>
Problem common(const Args& args) {
  Problem problem;
  problem.types.value = element_of(args.v.dtype);
  problem.types.output = element_of(args.out.dtype);
  problem.batch = args.out.shape[0];
  problem.q_heads = args.out.shape[1];
  problem.kv_heads = args.v.shape[1];
  problem.q_len = args.out.shape[2];
  problem.kv_len = args.v.shape[2];
  problem.v_head_dim = args.v.shape[3];
  problem.v = layout_of(args.v);
  problem.out = layout_of(args.out);
  problem.is_causal = args.is_causal;
  problem.alignment = args.causal_alignment;
  problem.window_left = args.window_left;
  problem.window_right = args.window_right;
  problem.has_seqused_k = args.seqused_k != nullptr;
  problem.precision = args.precision;
  return problem;
}

template <class Args>
void copy_lengths(const Args& args, Problem* problem) {
  if (args.seqused_k) problem->seqused_k.assign(args.seqused_k, args.seqused_k + problem->batch);
}

/// Of the scales of a tensor's rows.
Layout scales_layout_of(const ScaleView& view, const ConstTensor& rows) {
  return layout_of(ConstTensor{nullptr, rows.shape, {view.stride[0], view.stride[1], view.stride[2], 1}});
}

template <class Args>
void set_lse(const Args& args, Operands* operands) {
  operands->lse = args.lse.data;
  operands->lse_layout = lse_layout_of(args.lse, args.out);
}

template <class Args>
void set_query_and_key(const Args& args, Problem* problem) {
  problem->types.query = element_of(args.q.dtype);
  problem->types.key = element_of(args.k.dtype);
  problem->head_dim = args.q.shape[3];
  problem->q = layout_of(args.q);
  problem->k = layout_of(args.k);
}

std::int64_t longest(const std::vector<std::int32_t>& cu_seqlens) {
  std::int32_t most = 0;
  for (std::size_t b = 1; b < cu_seqlens.size(); ++b)
    most = std::max(most, cu_seqlens[b] - cu_seqlens[b - 1]);
  return most;
}

void set_sequences(const AttentionArgs& args, Problem* problem) {
  problem->batch = number_of_sequences(args);
  const auto copy = [&](const std::int32_t* from, std::vector<std::int32_t>* to) {
    if (from) to->assign(from, from + problem->batch + 1);
    return from != nullptr;
  };
  problem->has_cu_seqlens_q = copy(args.cu_seqlens_q, &problem->cu_seqlens_q);
  problem->has_cu_seqlens_k = copy(args.cu_seqlens_k, &problem->cu_seqlens_k);
  if (args.causal_sequences)
    problem->causal_sequences.assign(args.causal_sequences, args.causal_sequences + problem->batch);
  if (args.prefix_lens) problem->prefix_lens.assign(args.prefix_lens, args.prefix_lens + problem->batch);
  problem->window_sink_tokens = args.window_sink_tokens;
  problem->has_causal_sequences = args.causal_sequences != nullptr;
  problem->has_prefix_lens = args.prefix_lens != nullptr;
  if (problem->has_cu_seqlens_q) problem->q_len = longest(problem->cu_seqlens_q);
  problem->kv_len = longest_capacity(args);
  problem->has_block_table = args.block_table != nullptr;
  if (!problem->has_block_table) return;
  problem->has_kv_indptr = args.kv_indptr != nullptr;
  problem->has_key_tiles = args.key_layout == KeyLayout::tiles_of_16;
  problem->page_keys = args.k.shape[2];
  problem->pages = args.k.shape[0];
  problem->max_pages = args.max_pages;
  // Of a table without columns the stride may be any number, so nothing may be computed from it.
  if (args.max_pages == 0) return;
  problem->block_table_stride = args.block_table_stride > 0 ? args.block_table_stride : args.max_pages;
}

void set_key_lists(const AttentionArgs& args, Problem* problem) {
  problem->has_tree_mask = args.tree_mask != nullptr;
  problem->tree_mask_stride = args.tree_mask_stride > 0 ? args.tree_mask_stride : (problem->q_len + 7) / 8;
  problem->has_bsr_indptr = args.bsr_indptr != nullptr;
  problem->has_bsr_indices = args.bsr_indices != nullptr;
  problem->bsr_rows = args.bsr_rows;
  problem->bsr_keys = args.bsr_keys;
  problem->bsr_head_stride = args.bsr_head_stride;
  if (!problem->has_bsr_indptr || !problem->has_cu_seqlens_q) return;
  std::int64_t blocks = 0;
  for (std::int64_t b = 0; b < problem->batch; ++b) {
    problem->bsr_begin.push_back(blocks);
    blocks += problem->bsr_blocks(problem->sequence(b).q_len);
  }
}

void set_terms(const AttentionArgs& args, double softcap, Problem* problem) {
  kernels::ScoreTerms& terms = problem->terms;
  terms.softcap = static_cast<float>(softcap * kLog2e);
  terms.has_alibi = problem->has_alibi_slopes = args.alibi_slopes != nullptr;
  problem->alibi_batch_stride = args.alibi_batch_stride;
  problem->has_sinks = args.sinks != nullptr;
  set_key_lists(args, problem);
  problem->lse_form = {args.lse_with_sink, args.lse_base == LseBase::two};
  if (problem->kv_len == 0) return;  // No score is computed.
  if (is_present(args.bias)) {
    terms.has_bias = true;
    terms.bias_element = element_of(args.bias.dtype);
    terms.bias_stride = key_stride(args.bias);
    problem->bias = layout_of(args.bias);
  }
  if (is_present(args.mask)) {
    terms.has_mask = problem->has_mask = true;
    terms.mask_stride = problem->mask_key_stride = key_stride(args.mask);
    problem->mask = layout_of(args.mask);
  }
  if (problem->has_tree_mask || problem->has_bsr_indptr) {
    terms.has_mask = true;
    terms.mask_stride = 1;  // Of masks that are made from them.
  }
}

/// Keys of pages that no query sees.
kernels::HiddenKeys hidden_pages(const kernels::HeadProblem& head, std::int64_t page_keys) {
  const std::int64_t first = kernels::round_up(head.first_tokens, page_keys),
                     last = head.begin_of(0) / page_keys * page_keys;
  return {first, std::max<std::int64_t>(last - first, 0), head.first_tokens > 0 ? 0 : head.begin_of(0)};
}

}  // namespace

Element element_of(DataType type) {
  switch (type) {
    case DataType::f32:
      return Element::f32;
    case DataType::bf16:
      return Element::bf16;
    case DataType::f16:
      return Element::f16;
    case DataType::i8:
      return Element::i8;
    case DataType::boolean:
    case DataType::i32:
      break;
  }
  __builtin_unreachable();
}

Layout layout_of(const std::array<std::int64_t, 4>& shape, const std::array<std::int64_t, 4>& stride) {
  for (const std::int64_t size : shape) {
    if (size == 0) return {};
  }
  const auto step = [&](std::size_t i) { return shape[i] > 1 ? stride[i] : 0; };
  return {step(0), step(1), step(2)};
}

Layout lse_layout_of(const LseView& view, const Tensor& out) {
  const auto stride = lse_strides(view.stride, out.shape);
  return layout_of(out.shape, {stride[0], stride[1], stride[2], 1});
}

Problem lower(const AttentionArgs& args) {
  Problem problem = common(args);
  set_query_and_key(args, &problem);
  set_sequences(args, &problem);
  copy_lengths(args, &problem);
  problem.pipeline = args.pipeline;
  const double scale = args.scale == 0.0f ? 1.0 / std::sqrt(static_cast<double>(args.q.shape[3]))
                                          : static_cast<double>(args.scale);
  // With a softcap q is multiplied by scale / softcap, and the cap by log2(e). With a cap below 1e-30 no
  // score moves a probability, so it is taken as 1e-30: a smaller divisor would make the scale overflow, and
  // a subnormal one would be 0 where subnormals are flushed (float_state.h).
  const double softcap = args.softcap != 0.0f ? std::max(static_cast<double>(args.softcap), 1e-30) : 0.0;
  problem.q_scale = static_cast<float>(softcap != 0.0 ? scale / softcap : scale * kLog2e);
  set_terms(args, softcap, &problem);
  problem.value_in_key = problem.value_in_key_of(args.k.data, args.v.data);
  return problem;
}

Problem lower(const SoftmaxPvArgs& args) {
  Problem problem = common(args);
  problem.computation = Computation::softmax_pv;
  copy_lengths(args, &problem);
  // There is no query; the kernels are those of the values' type.
  problem.types.query = problem.types.key = problem.types.value;
  problem.scores = layout_of(args.scores);
  problem.integer_scores = args.scores.dtype == DataType::i32;
  problem.pipeline = args.pipeline;
  problem.q_scale = static_cast<float>(static_cast<double>(args.scale) * kLog2e);
  return problem;
}

Problem lower(const FusedGemmArgs& args) {
  Problem problem = common(args);
  problem.computation = Computation::fused_gemm;
  copy_lengths(args, &problem);
  set_query_and_key(args, &problem);
  problem.pipeline = Pipeline::online;  // KUMIKO_PIPELINE applies to calls with a softmax.
  problem.q_scale = args.scale;
  return problem;
}

Operands operands_of(const AttentionArgs& args) {
  Operands operands;
  operands.q = args.q.data;
  operands.k = args.k.data;
  operands.v = args.v.data;
  operands.out = args.out.data;
  operands.bias = args.bias.data;
  operands.mask = static_cast<const std::uint8_t*>(args.mask.data);
  operands.alibi_slopes = args.alibi_slopes;
  operands.pages = {args.block_table, args.kv_indptr};
  operands.sinks = args.sinks;
  operands.tree_mask = args.tree_mask;
  operands.bsr_indptr = args.bsr_indptr;
  operands.bsr_indices = args.bsr_indices;
  set_lse(args, &operands);
  operands.row_max = args.row_max.data;
  operands.row_max_layout = lse_layout_of(args.row_max, args.out);
  operands.q_scales = args.q_scale.data, operands.q_scales_layout = scales_layout_of(args.q_scale, args.q);
  operands.k_scales = args.k_scale.data, operands.k_scales_layout = scales_layout_of(args.k_scale, args.k);
  return operands;
}

Operands operands_of(const SoftmaxPvArgs& args) {
  Operands operands;
  operands.scores = args.scores.data;
  operands.v = args.v.data;
  operands.out = args.out.data;
  set_lse(args, &operands);
  return operands;
}

Operands operands_of(const FusedGemmArgs& args) {
  Operands operands;
  operands.q = args.q.data;
  operands.k = args.k.data;
  operands.v = args.v.data;
  operands.out = args.out.data;
  return operands;
}

std::int64_t Problem::value_in_key_of(const void* k_data, const void* v_data) const {
  if (!k_data || !v_data || k != v || has_key_tiles || types.key != types.value) return -1;
  const auto from = reinterpret_cast<std::uintptr_t>(k_data), to = reinterpret_cast<std::uintptr_t>(v_data);
  const auto bytes = static_cast<std::uintptr_t>(kernels::bytes_of(types.value));
  if ((to - from) % bytes != 0) return -1;
  const std::uintptr_t at = (to - from) / bytes;  // Of values before their keys: beyond any head_dim.
  return at + static_cast<std::uintptr_t>(v_head_dim) <= static_cast<std::uintptr_t>(head_dim)
             ? static_cast<std::int64_t>(at)
             : -1;
}

std::int64_t Problem::capacity(std::int64_t b) const {
  const auto i = static_cast<std::size_t>(b);
  return cu_seqlens_k.empty() ? kv_len : cu_seqlens_k[i + 1] - cu_seqlens_k[i];
}

Sequence Problem::sequence(std::int64_t b) const {
  const auto i = static_cast<std::size_t>(b);
  Sequence s{};
  s.q_begin = cu_seqlens_q.empty() ? 0 : cu_seqlens_q[i];
  s.q_len = cu_seqlens_q.empty() ? q_len : cu_seqlens_q[i + 1] - s.q_begin;
  s.kv_begin = cu_seqlens_k.empty() ? 0 : cu_seqlens_k[i];
  s.kv_len = seqused_k.empty() ? capacity(b) : seqused_k[i];
  s.q_total = query_total.empty() ? s.q_len : query_total[i];
  s.diagonal = (query_begin.empty() ? 0 : query_begin[i]) +
               (alignment == CausalAlignment::bottom_right ? s.kv_len - s.q_total : 0);
  return s;
}

std::int64_t Problem::first_own_split() const {
  const std::int64_t begin = part.key_begin / kKeysPerSplit;
  return begin + (part.part - begin % part.parts + part.parts) % part.parts;
}

std::int64_t Problem::own_splits(std::int64_t b) const {
  const std::int64_t all = (sequence(b).kv_len + kKeysPerSplit - 1) / kKeysPerSplit,
                     last = part.key_end < 0 ? all : min_of(all, part.key_end / kKeysPerSplit),
                     first = first_own_split();
  return last > first ? (last - first + part.parts - 1) / part.parts : 0;
}

std::int64_t Problem::least_rows() const {
  std::int64_t least = most_rows();
  for (std::int64_t b = 0; b < batch && has_cu_seqlens_q; ++b) {
    if (const std::int64_t rows = rows_of(b); rows > 0) least = min_of(least, rows);
  }
  return least;
}

std::int64_t Problem::total_rows() const {
  return has_cu_seqlens_q && batch > 0 ? group() * cu_seqlens_q.back() : batch * most_rows();
}

kernels::KeyLists Problem::key_lists(const Operands& operands, std::int64_t b, std::int64_t q_head) const {
  kernels::KeyLists lists;
  const Sequence request = sequence(b);
  if (operands.tree_mask) {
    const std::int64_t row = has_cu_seqlens_q ? request.q_begin : b * q_len;
    lists.tree = operands.tree_mask + row * tree_mask_stride;
    lists.tree_stride = tree_mask_stride;
    lists.tree_first = request.kv_len - request.q_len;
    lists.tree_keys = request.q_len;
  }
  if (operands.bsr_indptr) {
    const std::int64_t first =
        has_cu_seqlens_q ? bsr_begin[static_cast<std::size_t>(b)] : b * bsr_blocks(q_len);
    lists.indptr = operands.bsr_indptr + q_head * bsr_head_stride + first;
    lists.indices = operands.bsr_indices;
    lists.head_stride = bsr_head_stride;
    lists.block_rows = bsr_rows;
    lists.block_keys = bsr_keys;
  }
  return lists;
}

std::int64_t Problem::heads_side_by_side() const {
  constexpr std::int64_t kBytes = 4096;
  // Rows that are copied together are read in the order of the copy.
  if (has_key_tiles || page_keys % kernels::kLeastGroup != 0) return 1;
  std::int64_t most = std::min(kernels::kMaxDecodeHeads, own_heads());
  for (const auto& [layout, element] : {std::pair(k, types.key), std::pair(v, types.value)}) {
    if (layout.head <= 0 || layout.head >= layout.seq) return 1;
    most = std::min(most, kBytes / (layout.head * kernels::bytes_of(element)));
  }
  return std::max<std::int64_t>(most, 1);
}

kernels::HeadProblem Problem::keys_seen(std::int64_t b) const {
  kernels::HeadProblem head;
  set_keys_seen(sequence(b), b, &head);
  return head;
}

void Problem::set_keys_seen(const Sequence& request, std::int64_t b, kernels::HeadProblem* head) const {
  head->group = group();
  head->q_len = request.q_len;
  head->kv_len = request.kv_len;
  head->head_dim = head_dim;
  head->v_head_dim = v_head_dim;
  // Limits larger than any distance are reduced, so that no sum can overflow.
  const std::int64_t reach = 2 * (request.kv_len + request.q_total);
  head->diagonal = request.diagonal;
  head->begin_offset = window_left < 0 ? -request.q_len : request.diagonal - min_of(window_left, reach);
  const std::int64_t right = is_causal_sequence(b) ? 0 : window_right;
  head->end_offset = right < 0 ? request.kv_len : request.diagonal + min_of(right, reach) + 1;
  if (!prefix_lens.empty()) head->prefix = min_of(prefix_lens[static_cast<std::size_t>(b)], request.kv_len);
  const std::int64_t first_tokens = min_of(window_sink_tokens, request.kv_len);
  if (window_left >= 0) head->first_tokens = first_tokens;
  if (right >= 0 && !is_causal_sequence(b)) head->prefix = std::max(head->prefix, first_tokens);
  head->own = {part.key_begin / kKeysPerSplit,
               part.key_end < 0 ? head->own.end : part.key_end / kKeysPerSplit, part.parts, part.part};
}

kernels::HeadProblem Problem::head(const Operands& operands, std::int64_t b, std::int64_t kv_head) const {
  const Sequence request = sequence(b);
  const std::int64_t q_head = kv_head * group();
  // Packed sequences lie one after another in one batch.
  const std::int64_t q_batch = has_cu_seqlens_q ? 0 : b,
                     k_batch = has_cu_seqlens_k || has_block_table ? 0 : b;
  const auto offset = [&](const Layout& layout, std::int64_t head) {
    return q_batch * layout.batch + head * layout.head + request.q_begin * layout.seq;
  };
  const auto keys_of = [&](Element element, const Layout& layout, const void* data) {
    const std::int64_t at = k_batch * layout.batch + kv_head * layout.head + request.kv_begin * layout.seq;
    kernels::KeyRows rows{element_at(element, data, at), layout.seq};
    if (operands.pages.block_table) {
      rows.pages = pages_of(operands.pages, b);
      rows.page_keys = page_keys;
      rows.page_stride = layout.batch;
    }
    return rows;
  };
  // Not all of it set to 0 first: that is 2 % of the time of 16 queries and keys of 32 dims (Zen 3).
  kernels::HeadProblem head;
  head.q = element_at(types.query, operands.q, offset(q, q_head));
  head.k = keys_of(types.key, k, operands.k);
  head.k.is_tiled = has_key_tiles;
  head.v = keys_of(types.value, v, operands.v);
  if (types.key == Element::i8) {
    const Layout& of_queries = operands.q_scales_layout;
    if (operands.q_scales) head.q_scales = operands.q_scales + offset(of_queries, q_head);
    head.q_scales_head_stride = of_queries.head, head.q_scales_seq_stride = of_queries.seq;
    head.k_scales = keys_of(Element::f32, operands.k_scales_layout, operands.k_scales);
  }
  head.value_in_key = value_in_key_of(operands.k, operands.v);
  head.out = element_at(types.output, operands.out, offset(out, q_head));
  head.lse = operands.lse ? operands.lse + offset(operands.lse_layout, q_head) : nullptr;
  head.q_head_stride = q.head, head.q_seq_stride = q.seq;
  head.out_head_stride = out.head, head.out_seq_stride = out.seq;
  head.lse_head_stride = operands.lse_layout.head, head.lse_seq_stride = operands.lse_layout.seq;
  const Layout& row_max = operands.row_max_layout;
  head.row_max = operands.row_max ? operands.row_max + offset(row_max, q_head) : nullptr;
  head.row_max_head_stride = row_max.head, head.row_max_seq_stride = row_max.seq;
  set_keys_seen(request, b, &head);
  head.q_scale = q_scale;
  head.has_softmax = computation != Computation::fused_gemm;
  head.scores = element_at(Element::f32, operands.scores, offset(scores, q_head));  // 4 bytes, either type
  head.integer_scores = integer_scores;
  head.scores_head_stride = scores.head, head.scores_seq_stride = scores.seq;
  head.terms = terms;
  if (operands.alibi_slopes) head.alibi_slopes = operands.alibi_slopes + b * alibi_batch_stride + q_head;
  if (operands.sinks) head.sinks = operands.sinks + q_head;
  head.lse_form = lse_form;
  if (terms.has_bias) head.bias = element_at(terms.bias_element, operands.bias, offset(bias, q_head));
  head.bias_head_stride = bias.head, head.bias_seq_stride = bias.seq;
  if (terms.has_mask && operands.mask) head.mask = operands.mask + offset(mask, q_head);
  head.mask_head_stride = mask.head, head.mask_seq_stride = mask.seq;
  head.mask_key_stride = mask_key_stride;
  if (has_tree_mask || has_bsr_indptr) head.lists = key_lists(operands, b, q_head);
  if (states_kept == StatesKept::running && operands.states)
    head.running = {operands.states + states_of(b, kv_head), operands.is_first_part, operands.is_last_part};
  if (has_block_table) head.k.hidden = head.v.hidden = head.k_scales.hidden = hidden_pages(head, page_keys);
  return head;
}

}  // namespace kumiko
