// SPDX-License-Identifier: Apache-2.0
// softmax_pv and fused_gemm: the plan and tasks of attention without q k^T or without the softmax.
#include "runtime/attention_fields.h"
#include "runtime/context.h"
#include "runtime/plan.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

/// `args` must be valid, pointers included.
template <class Args>
Status run_once(const Context& context, const Args& args) {
  Plan::Impl plan(impl_of(context), lower(args));
  if (Status s = prepare(plan); !s.ok()) return s;
  return execute(plan, operands_of(args));
}

/// The checks of attention for the fields that fused_gemm has.
Status validate_fused_gemm(const FusedGemmArgs& args) {
  if (Status s = check_scale(args.scale, "a finite factor"); !s.ok()) return s;
  AttentionArgs a;
  copy_fields(args, &a);
  if (Status s = validate_problem(a); !s.ok()) return s;
  return validate_pointers(a);
}

}  // namespace

Status softmax_pv(const Context& context, const SoftmaxPvArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = validate_softmax_pv(args); !s.ok()) return s;
    if (args.pipeline == Pipeline::automatic && impl_of(context)->config.pipeline == Pipeline::decode) {
      return {
          Code::unsupported,
          "KUMIKO_PIPELINE is \"decode\"; expected automatic or another pipeline for softmax_pv, as decode "
          "takes no scores"};
    }
    return run_once(context, args);
  });
}

Status fused_gemm(const Context& context, const FusedGemmArgs& args) {
  return guarded([&]() -> Status {
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = validate_fused_gemm(args); !s.ok()) return s;
    return run_once(context, args);
  });
}

}  // namespace kumiko
