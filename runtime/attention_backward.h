// SPDX-License-Identifier: Apache-2.0
// Gradients of attention (docs/numerics.md), in one call or planned once and run many times. With P the
// weights of the forward call, which are computed anew from the log-sum-exp and never stored,
//
//   dv = P^T dout    dP = dout v^T    dS = P * (dP - rowsum(dout * out) + dlse)    dq = scale * dS k
//   dk = scale * dS^T q
//
// where dk and dv are sums over the query heads of a group.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "attention.h"

namespace kumiko {

/// One call of attention_backward. Every view must stay alive until the call returns; the gradients must not
/// overlap an input or each other. Optional gradients that are not wanted take no time.
struct BackwardArgs {
  /// The forward call: what it was given, and `out` and `lse` with what it wrote, which are only read here.
  /// `lse` is required. `pipeline` and `kv_domains` have no effect. `precision` is that of dq, dk and dv:
  /// automatic is half where q, k, v and dout are bf16 on avx512_bf16, and standard for all else; half
  /// anywhere else is an error. Not supported yet, each an error that names it: block_table, tree_mask,
  /// bsr_indptr, window_sink_tokens, row_max, precision int8, queries and keys of i8.
  AttentionArgs forward;
  ConstTensor dout;  ///< [batch, q_heads, q_len, v_head_dim], the gradient of out; f32, bf16 or f16
  /// Optional: the gradient of lse, for a loss that depends on it (as a merge of states does). Strides of its
  /// own. In rows that see no key it has no effect.
  LseView dlse{};
  // Each f32, bf16 or f16, rounded once. Keys and queries that nothing sees have gradients of 0; rows of
  // packed tensors after the last sequence are not written.
  Tensor dq;  ///< [batch, q_heads, q_len, head_dim]
  Tensor dk;  ///< [batch, kv_heads, kv_len, head_dim]
  Tensor dv;  ///< [batch, kv_heads, kv_len, v_head_dim]
  /// Optional f32 [q_heads], for a forward call with sinks: their gradient, summed over batch and queries.
  float* dsinks = nullptr;
  /// Optional: rowsum(dout * out) by the caller, for example of attention over more keys than these.
  /// `forward.out` is then validated but not read. Strides of its own.
  LseView delta{};
  /// Optional, for a forward call with a bias: its gradient, [batch, q_heads, q_len, kv_len], f32, bf16 or
  /// f16. Any strides: along a dimension with a stride of 0 it is the sum over the positions, whatever the
  /// bias's strides are. Sums are of f64, in a fixed order, and rounded once. Keys past a sequence's have 0.
  /// Without queries or keys it has no elements, whatever its strides: nothing is written.
  /// It costs two more products for each visible pair, besides the usual five, in f32 whatever the precision.
  /// Null data and a shape of all 0: not wanted.
  Tensor dbias{};
  /// Optional f32, for a forward call with alibi_slopes: their gradient, laid out as they are, [q_heads] or,
  /// with alibi_batch_stride, [batch, q_heads]. Summed as dbias is, at the same cost.
  float* dalibi_slopes = nullptr;
};

/// A call of attention_backward prepared once and run many times. Shapes, strides, types, causality, windows
/// and lengths are fixed; pointers may change from run to run. Several threads may run one plan at once.
/// Copies share the same plan; a plan keeps its context alive.
class KUMIKO_API BackwardPlan {
 public:
  BackwardPlan() = default;
  explicit operator bool() const { return impl_ != nullptr; }

  /// Runs on the pointers of `args` and its dlse, delta and forward.lse, of any strides; every other field,
  /// the values of lengths, and which of dsinks, dbias and dalibi_slopes are wanted must be as planned.
  /// Allocates only if more runs overlap in time than ever before. Errors: invalid_argument (not the planned
  /// problem), out_of_memory.
  Status run(const BackwardArgs& args) const;
  /// The problem, what products multiply, what one thread does alone, workspace bytes: one fact per line.
  std::string explain() const;
  /// Bytes of workspace one run uses: per-core scratch of all cores plus sums that threads share.
  std::int64_t workspace_bytes() const;

  struct Impl;

 private:
  friend struct Internals;
  std::shared_ptr<Impl> impl_;
};

/// Makes a plan for `args`, whose data pointers may still be null; of dsinks and dalibi_slopes only whether
/// they are null counts. Errors: invalid_argument, unsupported, out_of_memory; `*plan` is untouched on error.
KUMIKO_API Status plan_backward(const Context& context, const BackwardArgs& args, BackwardPlan* plan);

/// The gradients of attention_forward(), on the threads of `context`, in memory that does not grow with q_len
/// * kv_len: plan_backward() and run() in one. The bits of a gradient depend only on the tensors of the
/// sequences that it sums over, their KV heads, the precision and the ISA: not on threads, executor, topology
/// or the rest of the batch. If validation fails, nothing is written. Errors:
/// invalid_argument, unsupported, out_of_memory.
KUMIKO_API Status attention_backward(const Context& context, const BackwardArgs& args);

}  // namespace kumiko
