// SPDX-License-Identifier: Apache-2.0
// Gradients of attention (docs/numerics.md). With P the weights of the forward call, which are computed anew
// from the log-sum-exp and never stored,
//
//   dv = P^T dout    dP = dout v^T    dS = P * (dP - rowsum(dout * out) + dlse)    dq = scale * dS k
//   dk = scale * dS^T q
//
// where dk and dv are sums over the query heads of a group.
#pragma once

#include "attention.h"

namespace kumiko {

/// One call of attention_backward. Every view must stay alive until the call returns; the gradients must not
/// overlap an input or each other.
struct BackwardArgs {
  /// The forward call: what it was given, and `out` and `lse` with what it wrote, which are only read here.
  /// `lse` is required. `pipeline` is of no effect, and so is `kv_domains`. Not supported yet, each an error
  /// that names it: block_table, tree_mask, bsr_indptr, window_sink_tokens, row_max, precision half or int8.
  AttentionArgs forward;
  ConstTensor dout;  ///< [batch, q_heads, q_len, v_head_dim], the gradient of out; f32, bf16 or f16
  /// Optional: the gradient of lse, for a loss that depends on it (as a merge of states does). Strides of its
  /// own. Rows that see no key pass nothing on.
  LseView dlse{};
  // Each f32, bf16 or f16, rounded once. Keys and queries that nothing sees have gradients of 0; rows of
  // packed tensors after the last sequence are not written.
  Tensor dq;  ///< [batch, q_heads, q_len, head_dim]
  Tensor dk;  ///< [batch, kv_heads, kv_len, head_dim]
  Tensor dv;  ///< [batch, kv_heads, kv_len, v_head_dim]
  /// Optional f32 [q_heads], for a forward call with sinks: their gradient, summed over batch and queries.
  float* dsinks = nullptr;
};

/// The gradients of attention_forward(), on the threads of `context`, in memory that does not grow with q_len
/// * kv_len. Products are of f32, whatever the tensors' type. The bits of a gradient depend only on its
/// sequence's tensors, its KV head and the ISA: not on threads, executor, topology or the rest of the batch.
/// If validation fails, nothing is written. Errors: invalid_argument, unsupported, out_of_memory.
KUMIKO_API Status attention_backward(const Context& context, const BackwardArgs& args);

}  // namespace kumiko
