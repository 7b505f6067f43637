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
  float* dlse;            /* optional: the gradient of lse, [batch, q_heads, q_len]; only read */
  int64_t dlse_stride[3]; /* elements; all 0: contiguous */
  float* dsinks;          /* optional, with sinks: their gradient, [q_heads] */
} kumiko_backward_args;

#define KUMIKO_BACKWARD_ARGS_INIT                                                                   \
  {                                                                                                 \
    sizeof(kumiko_backward_args), NULL, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, \
        KUMIKO_TENSOR_INIT, NULL, {0, 0, 0}, NULL                                                   \
  }

/* If validation fails, nothing is written. Errors: invalid_argument, unsupported, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_attention_backward(const kumiko_context* context,
                                                     const kumiko_backward_args* args);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KUMIKO_ATTENTION_BACKWARD_C_H */
