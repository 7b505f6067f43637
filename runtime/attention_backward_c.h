/* SPDX-License-Identifier: Apache-2.0 */
/* Gradients of attention, from C: kumiko::attention_backward of <kumiko/attention_backward.h>, which has the
 * semantics of every field. Errors, versions and threads are those of <kumiko/attention_c.h>. */
#ifndef KUMIKO_ATTENTION_BACKWARD_C_H
#define KUMIKO_ATTENTION_BACKWARD_C_H

#include "attention_c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* One call (kumiko::BackwardArgs). Tensors are KUMIKO_F32, _BF16 or _F16, each with its own type. The
 * gradients must not overlap an input or each other. */
typedef struct kumiko_backward_args {
  size_t struct_size;
  const kumiko_attention_args* forward; /* the forward call, with the out and lse that it wrote */
  kumiko_const_tensor dout;             /* [batch, q_heads, q_len, v_head_dim], the gradient of out */
  kumiko_tensor dq;                     /* [batch, q_heads, q_len, head_dim] */
  kumiko_tensor dk;                     /* [batch, kv_heads, kv_len, head_dim] */
  kumiko_tensor dv;                     /* [batch, kv_heads, kv_len, v_head_dim] */
  float* dlse;             /* optional: the gradient of lse, [batch, q_heads, q_len]; read, not written */
  int64_t dlse_stride[3];  /* elements; all 0: contiguous */
  float* dsinks;           /* optional, with sinks: their gradient, [q_heads] */
  float* delta;            /* optional: rowsum(dout * out), [batch, q_heads, q_len]; read, not written */
  int64_t delta_stride[3]; /* elements; all 0: contiguous */
  kumiko_tensor dbias; /* optional, with a bias: its gradient, [batch, q_heads, q_len, kv_len], any strides */
  float* dalibi_slopes; /* optional, with alibi_slopes: their gradient, laid out as they are */
} kumiko_backward_args;

#define KUMIKO_BACKWARD_ARGS_INIT                                                                   \
  {                                                                                                 \
    sizeof(kumiko_backward_args), NULL, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, \
        KUMIKO_TENSOR_INIT, NULL, {0, 0, 0}, NULL, NULL, {0, 0, 0}, KUMIKO_TENSOR_INIT, NULL        \
  }

/* If validation fails, nothing is written. Errors: invalid_argument, unsupported, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_attention_backward(const kumiko_context* context,
                                                     const kumiko_backward_args* args);

/* A call prepared once and run many times (kumiko::BackwardPlan). It keeps its context's runtime alive. */
typedef struct kumiko_backward_plan kumiko_backward_plan;

/* Makes a plan for `args`, whose data pointers may still be NULL; of dsinks and dalibi_slopes only whether
 * they are NULL counts. Errors: invalid_argument, unsupported, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_backward_plan_create(const kumiko_context* context,
                                                       const kumiko_backward_args* args,
                                                       kumiko_backward_plan** plan);
/* NULL is accepted and does nothing. */
KUMIKO_C_API void kumiko_backward_plan_destroy(kumiko_backward_plan* plan);
/* Runs on the pointers of `args` and the strides of its dlse, delta and lse; every other field, the values of
 * lengths, and which of dsinks, dbias and dalibi_slopes are wanted must be as planned. Errors:
 * invalid_argument (not the planned problem), out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_backward_plan_run(const kumiko_backward_plan* plan,
                                                    const kumiko_backward_args* args);
/* The problem, what one thread does alone, workspace bytes: one fact per line. Valid until the plan is
 * destroyed. */
KUMIKO_C_API kumiko_status kumiko_backward_plan_explain(const kumiko_backward_plan* plan, const char** text);
/* Bytes of workspace that one run uses. */
KUMIKO_C_API kumiko_status kumiko_backward_plan_workspace_bytes(const kumiko_backward_plan* plan,
                                                                int64_t* bytes);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KUMIKO_ATTENTION_BACKWARD_C_H */
