/* SPDX-License-Identifier: Apache-2.0 */
/* New tokens' keys and values into a cache, from C: kumiko::kv_append of <kumiko/kv_append.h>, which has the
 * semantics of every field. Errors, versions and threads are those of <kumiko/attention_c.h>. */
#ifndef KUMIKO_KV_APPEND_C_H
#define KUMIKO_KV_APPEND_C_H

#include "attention_c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Which elements of a row rotary embedding turns together (kumiko::RopeStyle). */
enum {
  KUMIKO_ROPE_NEOX = 0,       /* d and d + rotary_dim / 2 */
  KUMIKO_ROPE_INTERLEAVED = 1 /* 2 i and 2 i + 1 */
};

/* One call (kumiko::KvAppendArgs). Tensors are KUMIKO_F32, _BF16 or _F16, each with its own type. The caches
 * and query_out must not overlap an input or each other, but query_out may be query itself. */
typedef struct kumiko_kv_append_args {
  size_t struct_size;
  kumiko_const_tensor key;     /* [batch, kv_heads, seq, head_dim], head_dim in 1..576 */
  kumiko_const_tensor value;   /* [batch, kv_heads, seq, v_head_dim], v_head_dim in 1..576 */
  kumiko_tensor key_cache;     /* [pages, kv_heads, page_size, head_dim] */
  kumiko_tensor value_cache;   /* [pages, kv_heads, page_size, v_head_dim] */
  const int64_t* slot_mapping; /* [batch * seq]: page * page_size + row of a token, all different; -1: none */
  kumiko_const_tensor query;   /* optional (NULL and shape all 0: absent): [batch, q_heads, seq, head_dim] */
  kumiko_tensor query_out;     /* the same shape, given with query */
  const float* key_norm;       /* optional: [head_dim] weights of an RMSNorm before the rotation */
  const float* query_norm;     /* optional: the same for query */
  float norm_eps;              /* finite, >= 0 */
  int32_t rope_style;          /* KUMIKO_ROPE_* */
  int64_t rotary_dim;          /* elements that are rotated: even, <= head_dim; 0: no rotation */
  const int64_t* positions;    /* [batch * seq], 0..2^31 - 1; must be given with rotary_dim */
  const float* rope_cos;       /* optional: [rope_positions, rotary_dim / 2]; given with rope_sin */
  const float* rope_sin;
  int64_t rope_positions;
  int64_t rope_stride; /* elements from one row of the tables to the next; 0: rotary_dim / 2 */
  double rope_theta; /* without tables: the angle is position * rope_scale * rope_theta^(-2 i / rotary_dim) */
  double rope_scale;
  int64_t key_layout; /* KUMIKO_KEY_ROWS or KUMIKO_KEY_TILES_OF_16: how key_cache lies in its pages */
  const int32_t* page_domains; /* optional: [pages], the domain whose memory holds a page, -1: any */
} kumiko_kv_append_args;

#define KUMIKO_KV_APPEND_ARGS_INIT                                                             \
  {                                                                                            \
    sizeof(kumiko_kv_append_args), KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, \
        KUMIKO_TENSOR_INIT, NULL, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, NULL, NULL, 1e-6f,   \
        KUMIKO_ROPE_NEOX, 0, NULL, NULL, NULL, 0, 0, 10000.0, 1.0, KUMIKO_KEY_ROWS, NULL       \
  }

/* If validation fails, nothing is written. Errors: invalid_argument, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_kv_append(const kumiko_context* context, const kumiko_kv_append_args* args);

/* Copies keys in rows into tiles, or back (kumiko::pack_key_pages, unpack_key_pages): tensors of one type and
 * shape, [pages, kv_heads, page_size, head_dim]. Errors: invalid_argument, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_pack_key_pages(const kumiko_context* context,
                                                 const kumiko_const_tensor* rows, const kumiko_tensor* tiles);
KUMIKO_C_API kumiko_status kumiko_unpack_key_pages(const kumiko_context* context,
                                                   const kumiko_const_tensor* tiles,
                                                   const kumiko_tensor* rows);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KUMIKO_KV_APPEND_C_H */
