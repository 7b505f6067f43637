// SPDX-License-Identifier: Apache-2.0
// softmax_pv and fused_gemm: the plan and the tasks of attention without its first or without its middle
// part.
#include "runtime/context.h"
#include "runtime/plan.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

template <class Args>
void set_visibility(const Args& from, AttentionArgs* to) {
  to->scale = from.scale;
  to->is_causal = from.is_causal;
  to->causal_alignment = from.causal_alignment;
  to->window_left = from.window_left;
  to->window_right = from.window_right;
  to->seqused_k = from.seqused_k;
}

/// `args` are valid, pointers and all.
Status run_once(const Context& context, const AttentionArgs& args, Computation computation,
                const ConstTensor& scores) {
  Plan::Impl plan;
  plan.context = impl_of(context);
  plan.computation = computation;
  plan.scores = scores;
  plan.args = args;
  plan.has_seqused_k = args.seqused_k != nullptr;
  if (args.seqused_k) plan.seqused_k.assign(args.seqused_k, args.seqused_k + args.q.shape[0]);
  if (Status s = build_plan(plan); !s.ok()) return s;
  if (!plan.context->executor->reserve(plan.scratch_bytes)) {
    return {Code::out_of_memory,
            "scratch of " + std::to_string(plan.scratch_bytes) + " bytes a core could not be allocated"};
  }
  return execute(plan, args);
}

}  // namespace

Status softmax_pv(const Context& context, const SoftmaxPvArgs& args) {
  return guarded([&]() -> Status {
    if (!context) return {Code::invalid_argument, "context is empty; expected one made by Context::create"};
    if (Status s = validate_softmax_pv(args); !s.ok()) return s;
    if (args.pipeline == Pipeline::automatic && impl_of(context)->config.pipeline == Pipeline::decode) {
      return {Code::unsupported,
              "KUMIKO_PIPELINE is \"decode\", which makes its scores itself; expected automatic or another "
              "pipeline for softmax_pv"};
    }
    AttentionArgs a;
    const auto& shape = args.scores.shape;
    // Queries and keys are a shape without elements.
    a.q = {nullptr, {shape[0], shape[1], shape[2], 0}, {}, args.v.dtype};
    a.k = {nullptr, {shape[0], args.v.shape[1], shape[3], 0}, {}, args.v.dtype};
    a.v = args.v;
    a.out = args.out;
    a.lse = args.lse;
    a.pipeline = args.pipeline;
    set_visibility(args, &a);
    return run_once(context, a, Computation::softmax_pv, args.scores);
  });
}

Status fused_gemm(const Context& context, const FusedGemmArgs& args) {
  return guarded([&]() -> Status {
    if (!context) return {Code::invalid_argument, "context is empty; expected one made by Context::create"};
    AttentionArgs a;
    a.q = args.q;
    a.k = args.k;
    a.v = args.v;
    a.out = args.out;
    a.pipeline = Pipeline::online;  // KUMIKO_PIPELINE is about softmaxes
    if (Status s = check_scale(args.scale, "a finite factor"); !s.ok()) return s;
    set_visibility(args, &a);
    if (Status s = validate_problem(a); !s.ok()) return s;
    if (Status s = validate_pointers(a); !s.ok()) return s;
    return run_once(context, a, Computation::fused_gemm, {});
  });
}

}  // namespace kumiko
