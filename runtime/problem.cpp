// SPDX-License-Identifier: Apache-2.0
#include "runtime/problem.h"

#include <algorithm>
#include <cmath>

#include "runtime/validate.h"

namespace kumiko {
namespace {

using kernels::Element;
using kernels::element_at;
using kernels::min_of;

constexpr double kLog2e = 1.44269504088896340736;

template <class View>
Layout layout_of(const View& view) {
  for (const std::int64_t size : view.shape) {
    if (size == 0) return {};
  }
  const auto step = [&](std::size_t i) { return view.shape[i] > 1 ? view.stride[i] : 0; };
  return {step(0), step(1), step(2)};
}

/// Stride of a view of scores from one key to the next.
std::int64_t key_stride(const ConstTensor& view) {
  return view.shape[3] > 1 ? view.stride[3] : 0;
}

/// The fields that all three calls have.
template <class Args>
Problem common(const Args& args) {
  Problem problem;
  problem.types.key_value = element_of(args.v.dtype);
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
  problem.window_right = args.is_causal ? 0 : args.window_right;
  problem.has_seqused_k = args.seqused_k != nullptr;
  if (args.seqused_k) problem.seqused_k.assign(args.seqused_k, args.seqused_k + problem.batch);
  return problem;
}

template <class Args>
void set_lse(const Args& args, Operands* operands) {
  const auto stride = lse_strides(args.lse.stride, args.out.shape);
  operands->lse = args.lse.data;
  operands->lse_layout =
      layout_of(ConstTensor{nullptr, args.out.shape, {stride[0], stride[1], stride[2], 1}});
}

template <class Args>
void set_query_and_key(const Args& args, Problem* problem) {
  problem->types.query = element_of(args.q.dtype);
  problem->head_dim = args.q.shape[3];
  problem->q = layout_of(args.q);
  problem->k = layout_of(args.k);
}

void set_terms(const AttentionArgs& args, double softcap, Problem* problem) {
  kernels::ScoreTerms& terms = problem->terms;
  terms.softcap = static_cast<float>(softcap * kLog2e);
  terms.has_alibi = args.alibi_slopes != nullptr;
  problem->alibi_batch_stride = args.alibi_batch_stride;
  if (args.k.shape[2] == 0) return;  // No score is computed.
  if (is_present(args.bias)) {
    terms.has_bias = true;
    terms.bias_element = element_of(args.bias.dtype);
    terms.bias_stride = key_stride(args.bias);
    problem->bias = layout_of(args.bias);
  }
  if (is_present(args.mask)) {
    terms.has_mask = true;
    terms.mask_stride = key_stride(args.mask);
    problem->mask = layout_of(args.mask);
  }
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
    case DataType::boolean:
    case DataType::i32:
      break;
  }
  __builtin_unreachable();
}

Problem lower(const AttentionArgs& args) {
  Problem problem = common(args);
  set_query_and_key(args, &problem);
  problem.pipeline = args.pipeline;
  const double scale = args.scale == 0.0f ? 1.0 / std::sqrt(static_cast<double>(args.q.shape[3]))
                                          : static_cast<double>(args.scale);
  // With a softcap q is multiplied by scale / softcap, and the cap by log2(e). With a cap below 1e-30 no
  // score moves a probability, so it is taken as 1e-30: a smaller divisor would make the scale overflow, and
  // a subnormal one would be 0 where subnormals are flushed (float_state.h).
  const double softcap = args.softcap != 0.0f ? std::max(static_cast<double>(args.softcap), 1e-30) : 0.0;
  problem.q_scale = static_cast<float>(softcap != 0.0 ? scale / softcap : scale * kLog2e);
  set_terms(args, softcap, &problem);
  return problem;
}

Problem lower(const SoftmaxPvArgs& args) {
  Problem problem = common(args);
  problem.computation = Computation::softmax_pv;
  problem.types.query =
      problem.types.key_value;  // There is no query; the kernels are those of the values' type.
  problem.scores = layout_of(args.scores);
  problem.integer_scores = args.scores.dtype == DataType::i32;
  problem.pipeline = args.pipeline;
  problem.q_scale = static_cast<float>(static_cast<double>(args.scale) * kLog2e);
  return problem;
}

Problem lower(const FusedGemmArgs& args) {
  Problem problem = common(args);
  problem.computation = Computation::fused_gemm;
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
  set_lse(args, &operands);
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

Sequence Problem::sequence(std::int64_t b) const {
  const std::int64_t keys = seqused_k.empty() ? kv_len : seqused_k[static_cast<std::size_t>(b)];
  return {keys, alignment == CausalAlignment::bottom_right ? keys - q_len : 0};
}

kernels::HeadProblem Problem::head(const Operands& operands, std::int64_t b, std::int64_t kv_head) const {
  const Sequence request = sequence(b);
  const std::int64_t q_head = kv_head * group();
  const auto offset = [&](const Layout& layout, std::int64_t head) {
    return b * layout.batch + head * layout.head;
  };
  kernels::HeadProblem head{};
  head.q = element_at(types.query, operands.q, offset(q, q_head));
  head.k = {element_at(types.key_value, operands.k, offset(k, kv_head)), k.seq};
  head.v = {element_at(types.key_value, operands.v, offset(v, kv_head)), v.seq};
  head.out = element_at(types.output, operands.out, offset(out, q_head));
  head.lse = operands.lse ? operands.lse + offset(operands.lse_layout, q_head) : nullptr;
  head.q_head_stride = q.head, head.q_seq_stride = q.seq;
  head.out_head_stride = out.head, head.out_seq_stride = out.seq;
  head.lse_head_stride = operands.lse_layout.head, head.lse_seq_stride = operands.lse_layout.seq;
  head.group = group();
  head.q_len = q_len;
  head.kv_len = request.kv_len;
  head.head_dim = head_dim;
  head.v_head_dim = v_head_dim;
  head.q_scale = q_scale;
  head.has_softmax = computation != Computation::fused_gemm;
  head.scores = element_at(Element::f32, operands.scores, offset(scores, q_head));  // 4 bytes, either type
  head.integer_scores = integer_scores;
  head.scores_head_stride = scores.head, head.scores_seq_stride = scores.seq;
  head.terms = terms;
  if (operands.alibi_slopes) head.alibi_slopes = operands.alibi_slopes + b * alibi_batch_stride + q_head;
  if (terms.has_bias) head.bias = element_at(terms.bias_element, operands.bias, offset(bias, q_head));
  head.bias_head_stride = bias.head, head.bias_seq_stride = bias.seq;
  if (terms.has_mask && operands.mask) head.mask = operands.mask + offset(mask, q_head);
  head.mask_head_stride = mask.head, head.mask_seq_stride = mask.seq;
  // Limits larger than any distance are reduced, so that no sum can overflow.
  const std::int64_t reach = 2 * (request.kv_len + q_len);
  head.diagonal = request.diagonal;
  head.begin_offset = window_left < 0 ? -q_len : request.diagonal - min_of(window_left, reach);
  head.end_offset = window_right < 0 ? request.kv_len : request.diagonal + min_of(window_right, reach) + 1;
  return head;
}

}  // namespace kumiko
