/* SPDX-License-Identifier: Apache-2.0 */
/* Kumiko's C ABI: exact attention on CPUs, for C99 and for every language that can call C.
 *
 *   out[b, h, i, :] = sum_j softmax_j(scale * <q[b, h, i, :], k[b, h / group, j, :]>) * v[b, h / group, j, :]
 *
 * The semantics of every field and call are those of <kumiko/attention.h>; this header adds what is specific
 * to C.
 *
 * Errors. Every call that can fail returns a kumiko_status. kumiko_last_error() returns its message: which
 * argument, its value, what was expected. No call aborts or throws, and none prints unless KUMIKO_VERBOSE is
 * 1. A NULL that is not allowed gives KUMIKO_INVALID_ARGUMENT. On an error no output parameter is written.
 *
 * Versions. Structs that may grow begin with struct_size, the caller's sizeof. A library newer than its
 * caller sets the fields that the caller lacks to their defaults. A library older than its caller refuses a
 * struct with a nonzero byte after the fields that it has. Always start from the _INIT macros: zero is not
 * every field's default. Enumerators keep their values.
 *
 * Threads. Every call may be made from any number of threads at once, with three exceptions:
 * kumiko_plan_update, kumiko_plan_update_pages, and destroying a handle (once, by one thread). No other call
 * may use that handle meanwhile. */
#ifndef KUMIKO_ATTENTION_C_H
#define KUMIKO_ATTENTION_C_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define KUMIKO_C_API __attribute__((visibility("default")))
#else
#define KUMIKO_C_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Outcome of a call: the values of kumiko::Code. */
typedef int32_t kumiko_status;
enum {
  KUMIKO_OK = 0,
  KUMIKO_INVALID_ARGUMENT = 1,    /* An argument is outside its documented domain. */
  KUMIKO_UNSUPPORTED = 2,         /* Well formed, but this build or this machine cannot do it. */
  KUMIKO_OUT_OF_MEMORY = 3,       /* Memory could not be allocated; nothing was written. */
  KUMIKO_INVALID_ENVIRONMENT = 4, /* A KUMIKO_* variable does not parse or does not fit this machine. */
  KUMIKO_INTERNAL = 5,            /* A defect of the library: please report it. */
  KUMIKO_QUEUE_FULL = 6,          /* A stream has as many open calls as it takes; nothing was submitted. */
  KUMIKO_CANCELLED = 7,           /* A submitted call was cancelled before it started; nothing was written. */
  KUMIKO_COMMUNICATION = 8        /* A call of MPI failed, here or on another rank (distributed_c.h). */
};

/* Element type of a tensor (kumiko::DataType). KUMIKO_BOOLEAN is for masks only, KUMIKO_I32 for the scores of
 * softmax_pv, KUMIKO_I8 for queries and keys of attention. Results are rounded to nearest even; what sums are
 * kept in: docs/numerics.md. */
enum { KUMIKO_F32 = 0, KUMIKO_BF16 = 1, KUMIKO_F16 = 2, KUMIKO_BOOLEAN = 3, KUMIKO_I32 = 4, KUMIKO_I8 = 5 };

/* Where the causal diagonal ends when q_len != kv_len (kumiko::CausalAlignment). */
enum {
  KUMIKO_BOTTOM_RIGHT = 0, /* Query i sees keys j <= i + kv_len - q_len: the last query sees every key. */
  KUMIKO_TOP_LEFT = 1      /* Query i sees keys j <= i. */
};

/* The order of work of one core (kumiko::Pipeline). On one ISA every choice gives the same bits. */
enum {
  KUMIKO_PIPELINE_AUTOMATIC = 0,
  KUMIKO_PIPELINE_ONLINE = 1,
  KUMIKO_PIPELINE_DECODE = 2,
  KUMIKO_PIPELINE_TWO_PASS = 3,
  KUMIKO_PIPELINE_INTERLEAVED = 4,
  KUMIKO_PIPELINE_THREE_PASS = 5
};

/* What the products multiply (kumiko::Precision). */
enum {
  KUMIKO_PRECISION_AUTOMATIC = 0,
  KUMIKO_PRECISION_STANDARD = 1, /* f32 */
  KUMIKO_PRECISION_HALF = 2,     /* the tensors' 16-bit type */
  KUMIKO_PRECISION_INT8 = 3      /* int8 queries and keys; what automatic is for these */
};

/* Unit of a log-sum-exp. */
enum {
  KUMIKO_LSE_NATURAL = 0,
  KUMIKO_LSE_BASE_2 = 1 /* the same times log2(e) */
};

/* How a head's keys lie in their pages (kumiko::KeyLayout). */
enum {
  KUMIKO_KEY_ROWS = 0,
  KUMIKO_KEY_TILES_OF_16 = 1 /* tiles of 16 keys, [head_dim][16], or [(head_dim + 1) / 2][16][2] of 16 bits */
};

/* A runtime: its threads, domains and workspaces. Create one per process and share it. */
typedef struct kumiko_context kumiko_context;
/* A call prepared once and run many times. It keeps its context's runtime alive. */
typedef struct kumiko_plan kumiko_plan;

/* A strided view in the logical order [batch, heads, seq, head_dim]. Strides count elements; the last one
 * is 1. `data` must be aligned to the element size, no more. This struct and the next are fields of other
 * structs, so they never change. */
typedef struct kumiko_tensor {
  void* data;
  int32_t dtype;    /* KUMIKO_F32 | KUMIKO_BF16 | KUMIKO_F16 | KUMIKO_I8 */
  int32_t reserved; /* 0 */
  int64_t shape[4];
  int64_t stride[4];
} kumiko_tensor;

/* The same for inputs. A stride of 0 (an expanded dimension) is accepted. */
typedef struct kumiko_const_tensor {
  const void* data;
  int32_t dtype;    /* KUMIKO_F32 | KUMIKO_BF16 | KUMIKO_F16 | KUMIKO_BOOLEAN | KUMIKO_I32 | KUMIKO_I8 */
  int32_t reserved; /* 0 */
  int64_t shape[4];
  int64_t stride[4];
} kumiko_const_tensor;

/* Settings of a context. A field at its default takes the value of the environment variable named beside it;
 * if that is unset too, the machine decides. Strings are read only during the call; NULL and "" are the
 * default. */
typedef struct kumiko_context_options {
  size_t struct_size;
  int32_t num_threads;  /* KUMIKO_NUM_THREADS. 0: allowed cores, bounded by the cgroup CPU quota. */
  int32_t reserved;     /* 0 */
  const char* cpus;     /* KUMIKO_CPUS: OS CPU numbers the runtime may use, "0-11,24-35". */
  const char* bind;     /* KUMIKO_BIND: close | spread | none. */
  const char* executor; /* KUMIKO_EXECUTOR: openmp | tbb | serial. */
  const char* isa; /* KUMIKO_ISA: avx512_bf16 | avx512 | avx2 | sve512 | neon | reference. One the machine
                      lacks is an error. */
  const char* topology; /* KUMIKO_TOPOLOGY: hwloc synthetic description or XML file to plan for. */
  const char* policy;   /* KUMIKO_POLICY: heads_first | flat. */
  const char* trace;    /* KUMIKO_TRACE: file for a timeline of every core, in Perfetto's JSON. */
  const char* tuning;   /* KUMIKO_TUNING: file that kumiko-tune wrote. No bit of a result depends on it. */
} kumiko_context_options;

/* One attention call (kumiko::AttentionArgs). q, k and v have the same type, KUMIKO_F32, _BF16 or _F16, or q
 * and k are KUMIKO_I8 and v is one of these; out has v's type or KUMIKO_F32. `out`, `lse` and `row_max` must
 * not overlap the inputs or each other. */
typedef struct kumiko_attention_args {
  size_t struct_size;
  kumiko_const_tensor q;     /* [batch, q_heads, q_len, head_dim], head_dim in 1..576 */
  kumiko_const_tensor k;     /* [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads */
  kumiko_const_tensor v;     /* [batch, kv_heads, kv_len, v_head_dim], v_head_dim in 1..576 */
  kumiko_tensor out;         /* [batch, q_heads, q_len, v_head_dim]; rows that see no key become 0 */
  float* lse;                /* optional: log-sum-exp of the scaled scores, f32 [batch, q_heads, q_len] */
  int64_t lse_stride[3];     /* elements; all 0: contiguous */
  float scale;               /* factor on q.k, finite; 0: 1 / sqrt(head_dim) */
  int32_t is_causal;         /* 0 or 1 */
  int32_t causal_alignment;  /* KUMIKO_BOTTOM_RIGHT | KUMIKO_TOP_LEFT */
  int32_t pipeline;          /* KUMIKO_PIPELINE_* */
  int64_t window_left;       /* keys seen left of the diagonal; -1: no limit */
  int64_t window_right;      /* keys seen right of it; -1: no limit */
  const int32_t* seqused_k;  /* optional: [batch], keys used of each sequence, 0..kv_len */
  float softcap;             /* score becomes softcap * tanh(score / softcap), finite, >= 0; 0: no softcap */
  int32_t precision;         /* KUMIKO_PRECISION_* */
  kumiko_const_tensor bias;  /* optional (NULL and shape all 0: absent): added to the scores, [batch, q_heads,
                                q_len, kv_len]; KUMIKO_F32, _BF16 or _F16; any strides */
  kumiko_const_tensor mask;  /* optional (NULL and shape all 0: absent): KUMIKO_BOOLEAN of the same shape, 0
                                hides the key; any strides */
  const float* alibi_slopes; /* optional: ALiBi slopes, [q_heads] or [batch, q_heads] */
  int64_t alibi_batch_stride; /* elements from one sequence's slopes to the next; 0: the same for all */
  const int32_t* kv_domains;  /* optional: [batch, kv_heads], the domain whose memory holds a KV head, -1: any
                                 (policy heads_first) */
  /* Sequences of different lengths in one call, keys and values in pages: see kumiko::AttentionArgs. */
  const int32_t* cu_seqlens_q; /* optional: [num_sequences + 1], non-decreasing, the first 0: sequence b has
                                  the query positions [cu_seqlens_q[b], cu_seqlens_q[b + 1]) of q, out and
                                  lse, whose batch size is then 1 */
  const int32_t* cu_seqlens_k; /* optional: the same for the keys of k and v */
  int64_t num_sequences;       /* 0: the batch size of q; must be given with cu_seqlens_q */
  const int32_t* block_table;  /* optional: [num_sequences, max_pages], the page of each page_size keys; k and
                                  v are then [pages, kv_heads, page_size, head_dim or v_head_dim], page_size
                                  in 1..512, and seqused_k must be given */
  int64_t max_pages;           /* columns of block_table */
  int64_t block_table_stride;  /* elements from one row of block_table to the next; 0: max_pages */
  const float* sinks;    /* optional: [q_heads], exp(sinks[h]) joins the denominator of each row of head h
                            once; -inf: no sink */
  int32_t lse_with_sink; /* 0 or 1: whether lse counts the sink */
  int32_t lse_base;      /* KUMIKO_LSE_NATURAL | KUMIKO_LSE_BASE_2 */
  const uint8_t* causal_sequences; /* optional: [batch], 0 or 1, instead of is_causal */
  const int32_t* prefix_lens;      /* optional: [batch], 0 or more: keys that every query of a sequence sees
                                      whatever causality and window_right say */
  int64_t window_sink_tokens;      /* first keys of each sequence that stay visible besides the window;
                                      causality applies to them */
  const int32_t* kv_indptr;        /* optional: [num_sequences + 1], non-decreasing, the first 0 or more:
                                      block_table is one list, and sequence b has its entries [kv_indptr[b],
                                      kv_indptr[b + 1]), at most max_pages; block_table_stride is 0 */
  const uint8_t* tree_mask;  /* optional: bits over the last q_len keys, a row for each query position */
  int64_t tree_mask_stride;  /* bytes; 0: (q_len of the longest sequence + 7) / 8 */
  const int32_t* bsr_indptr; /* optional: [n + 1] or [q_heads, n + 1], where the list of each query block's
                                key blocks begins in bsr_indices */
  const int32_t* bsr_indices;
  int64_t bsr_rows;        /* queries of a block */
  int64_t bsr_keys;        /* keys of a block */
  int64_t bsr_head_stride; /* elements from one head's row of bsr_indptr to the next; 0: the same for all */
  float* row_max;          /* optional: largest scaled score of each query, natural units, without sinks, f32
                              [batch, q_heads, q_len]; -inf where a query sees no key */
  int64_t row_max_stride[3]; /* elements; all 0: contiguous */
  int64_t
      key_layout; /* KUMIKO_KEY_ROWS, or KUMIKO_KEY_TILES_OF_16, with block_table: how k lies in its pages */
  const float* q_scale; /* optional, q and k of KUMIKO_I8 only: scales of the rows of q, with the first three
                           dimensions of q; NULL: 1 */
  int64_t q_scale_stride[3]; /* elements; 0: one scale for all rows along that dimension */
  const float* k_scale;      /* the same for k; in pages [pages, kv_heads, page_size] */
  int64_t k_scale_stride[3];
} kumiko_attention_args;

/* Softmax of precomputed scores, times V (kumiko::SoftmaxPvArgs). v is KUMIKO_F32, _BF16 or _F16; out has v's
 * type or KUMIKO_F32. `out` and `lse` must not overlap the inputs or each other. */
typedef struct kumiko_softmax_pv_args {
  size_t struct_size;
  kumiko_const_tensor scores; /* [batch, q_heads, q_len, kv_len]; KUMIKO_F32 or KUMIKO_I32 */
  kumiko_const_tensor v;      /* [batch, kv_heads, kv_len, v_head_dim], q_heads a multiple of kv_heads */
  kumiko_tensor out;          /* [batch, q_heads, q_len, v_head_dim]; rows that see no key become 0 */
  float* lse;            /* optional: natural log-sum-exp of the scaled scores, f32 [batch, q_heads, q_len] */
  int64_t lse_stride[3]; /* elements; all 0: contiguous */
  float scale;           /* factor on the scores, finite */
  int32_t is_causal;     /* 0 or 1 */
  int32_t causal_alignment; /* KUMIKO_BOTTOM_RIGHT | KUMIKO_TOP_LEFT */
  int32_t pipeline;         /* KUMIKO_PIPELINE_*, any but decode */
  int64_t window_left;      /* keys seen left of the diagonal; -1: no limit */
  int64_t window_right;     /* keys seen right of it; -1: no limit */
  const int32_t* seqused_k; /* optional: [batch], keys used of each sequence, 0..kv_len */
  int32_t precision;        /* KUMIKO_PRECISION_* */
  int32_t reserved;         /* 0 */
} kumiko_softmax_pv_args;

/* Two products without a softmax (kumiko::FusedGemmArgs). q, k and v have the same type, KUMIKO_F32, _BF16 or
 * _F16; out has that type or KUMIKO_F32. `out` must not overlap the inputs. */
typedef struct kumiko_fused_gemm_args {
  size_t struct_size;
  kumiko_const_tensor q;    /* [batch, q_heads, q_len, head_dim], head_dim in 1..576 */
  kumiko_const_tensor k;    /* [batch, kv_heads, kv_len, head_dim], q_heads a multiple of kv_heads */
  kumiko_const_tensor v;    /* [batch, kv_heads, kv_len, v_head_dim], v_head_dim in 1..576 */
  kumiko_tensor out;        /* [batch, q_heads, q_len, v_head_dim] */
  float scale;              /* factor on q.k, finite */
  int32_t is_causal;        /* 0 or 1 */
  int32_t causal_alignment; /* KUMIKO_BOTTOM_RIGHT | KUMIKO_TOP_LEFT */
  int32_t precision;        /* KUMIKO_PRECISION_* */
  int64_t window_left;      /* keys seen left of the diagonal; -1: no limit */
  int64_t window_right;     /* keys seen right of it; -1: no limit */
  const int32_t* seqused_k; /* optional: [batch], keys used of each sequence, 0..kv_len */
} kumiko_fused_gemm_args;

/* The result of attention over some of the keys (kumiko::AttentionState). Callers make arrays of it, so it
 * never changes. */
typedef struct kumiko_attention_state {
  kumiko_const_tensor out; /* [batch, q_heads, q_len, v_head_dim]; KUMIKO_F32, _BF16 or _F16 */
  const float* lse;        /* [batch, q_heads, q_len], natural logarithm */
  int64_t lse_stride[3];   /* elements; all 0: contiguous */
} kumiko_attention_state;

/* What the cores and domains of a machine sustain (kumiko::MachineRates). It never changes. */
typedef struct kumiko_machine_rates {
  double core_flops;       /* FLOP/s of one core in the pipeline's products and exponentials */
  double core_bandwidth;   /* bytes/s that one core reads while the others are idle */
  double domain_bandwidth; /* bytes/s that all cores of a domain read together */
  double start_seconds;    /* to wake the threads and wait for the last one, once per run */
} kumiko_machine_rates;

/* Defaults, for C and C++: kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT; */
#define KUMIKO_TENSOR_INIT               \
  {                                      \
    NULL, KUMIKO_F32, 0, {0, 0, 0, 0}, { \
      0, 0, 0, 0                         \
    }                                    \
  }
#define KUMIKO_CONTEXT_OPTIONS_INIT \
  { sizeof(kumiko_context_options), 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL }
#define KUMIKO_ATTENTION_ARGS_INIT                                                                           \
  {                                                                                                          \
    sizeof(kumiko_attention_args), KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT,               \
        KUMIKO_TENSOR_INIT, NULL, {0, 0, 0}, 0.0f, 0, KUMIKO_BOTTOM_RIGHT, KUMIKO_PIPELINE_AUTOMATIC, -1,    \
        -1, NULL, 0.0f, 0, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, NULL, 0, NULL, NULL, NULL, 0, NULL, 0, 0, \
        NULL, 1, KUMIKO_LSE_NATURAL, NULL, NULL, 0, NULL, NULL, 0, NULL, NULL, 0, 0, 0, NULL, {0, 0, 0},     \
        KUMIKO_KEY_ROWS, NULL, {0, 0, 0}, NULL, {                                                            \
      0, 0, 0                                                                                                \
    }                                                                                                        \
  }

#define KUMIKO_SOFTMAX_PV_ARGS_INIT                                                                   \
  {                                                                                                   \
    sizeof(kumiko_softmax_pv_args), KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, NULL, \
        {0, 0, 0}, 1.0f, 0, KUMIKO_BOTTOM_RIGHT, KUMIKO_PIPELINE_AUTOMATIC, -1, -1, NULL, 0, 0        \
  }
#define KUMIKO_FUSED_GEMM_ARGS_INIT                                                             \
  {                                                                                             \
    sizeof(kumiko_fused_gemm_args), KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, KUMIKO_TENSOR_INIT, \
        KUMIKO_TENSOR_INIT, 1.0f, 0, KUMIKO_BOTTOM_RIGHT, 0, -1, -1, NULL                       \
  }

/* "major.minor.patch" of the library that runs, which may differ from the one compiled against. */
KUMIKO_C_API const char* kumiko_version(void);

/* The message of this thread's latest call that returned a kumiko_status: "" if it succeeded. Never NULL.
 * Valid until this thread's next such call. */
KUMIKO_C_API const char* kumiko_last_error(void);

/* The name of a status, "invalid_argument"; "unknown" for any other number. */
KUMIKO_C_API const char* kumiko_status_name(kumiko_status status);

/* Views of contiguous f32 memory laid out [batch, heads, seq, dim] (bhsd) or [batch, seq, heads, dim] (bshd).
 */
KUMIKO_C_API kumiko_tensor kumiko_tensor_bhsd(float* data, int64_t batch, int64_t heads, int64_t seq,
                                              int64_t dim);
KUMIKO_C_API kumiko_tensor kumiko_tensor_bshd(float* data, int64_t batch, int64_t seq, int64_t heads,
                                              int64_t dim);
KUMIKO_C_API kumiko_const_tensor kumiko_const_tensor_bhsd(const float* data, int64_t batch, int64_t heads,
                                                          int64_t seq, int64_t dim);
KUMIKO_C_API kumiko_const_tensor kumiko_const_tensor_bshd(const float* data, int64_t batch, int64_t seq,
                                                          int64_t heads, int64_t dim);

/* options == NULL: every default. Errors: invalid_argument or invalid_environment (a value that does not
 * parse), unsupported (a forced choice that is not available), out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_context_create(const kumiko_context_options* options,
                                                 kumiko_context** context);
/* NULL is accepted and does nothing. Plans made from the context stay usable. */
KUMIKO_C_API void kumiko_context_destroy(kumiko_context* context);
/* Domains, cores, executor, ISA and the limits that apply: one fact per line. Valid until the context is
 * destroyed. */
KUMIKO_C_API kumiko_status kumiko_context_describe(const kumiko_context* context, const char** text);
KUMIKO_C_API kumiko_status kumiko_context_num_threads(const kumiko_context* context, int32_t* num_threads);
/* Writes the trace so far (kumiko::Context::write_trace). Errors: invalid_argument (no trace was asked for),
 * unsupported (the file cannot be written). */
KUMIKO_C_API kumiko_status kumiko_context_write_trace(const kumiko_context* context);

/* A domain is a set of cores that share a NUMA node and a last-level cache. Domains are numbered from 0, as
 * in kumiko_context_describe. */
KUMIKO_C_API kumiko_status kumiko_context_num_domains(const kumiko_context* context, int32_t* num_domains);
/* Instead of a domain's number: equal parts, part d on domain d's node. */
#define KUMIKO_EACH_DOMAIN (-1)
/* Zeroed memory on the NUMA node of one domain, or of each in turn, for the keys and values that its cores
 * are to read. Its pages hold nothing else. It may outlive the context. If it cannot be placed
 * (kumiko_context_describe says why), each page goes to the node of the thread that first writes to it.
 * Errors: invalid_argument (no such domain; bytes below 1 or not whole pages of memory for each part),
 * out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_context_allocate(const kumiko_context* context, int32_t domain,
                                                   int64_t bytes, void** data);
/* NULL is accepted and does nothing. `bytes` is the number given to kumiko_context_allocate. */
KUMIKO_C_API void kumiko_free(void* data, int64_t bytes);

/* Makes a plan for `args`, whose data pointers may still be NULL. Errors: invalid_argument, unsupported,
 * out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_plan_create(const kumiko_context* context,
                                              const kumiko_attention_args* args, kumiko_plan** plan);
/* NULL is accepted and does nothing. */
KUMIKO_C_API void kumiko_plan_destroy(kumiko_plan* plan);
/* Runs on the pointers of `args` and the strides of its lse and row_max; every other field, and the values of
 * seqused_k, must be as planned. Errors: invalid_argument (not the planned problem), unsupported (row_max of
 * products of f16), out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_plan_run(const kumiko_plan* plan, const kumiko_attention_args* args);
/* Sets the used lengths, [count], of later runs (kumiko::Plan::update). count is the planned batch. No other
 * call may be using the plan. Errors: invalid_argument, unsupported, out_of_memory; on an error nothing
 * changes. */
KUMIKO_C_API kumiko_status kumiko_plan_update(kumiko_plan* plan, const int32_t* seqused_k, int64_t count);
/* The same, and finds anew which sequences have their first pages in common, in a block table of the planned
 * shape for the new lengths; kv_indptr is NULL if the plan was made without it. */
KUMIKO_C_API kumiko_status kumiko_plan_update_pages(kumiko_plan* plan, const int32_t* seqused_k,
                                                    int64_t count, const int32_t* block_table,
                                                    const int32_t* kv_indptr);
/* Pipeline, blocks, tasks per domain, predicted imbalance, workspace bytes: one fact per line. Valid until
 * the plan is updated or destroyed. */
KUMIKO_C_API kumiko_status kumiko_plan_explain(const kumiko_plan* plan, const char** text);
/* Bytes of workspace that one run uses. */
KUMIKO_C_API kumiko_status kumiko_plan_workspace_bytes(const kumiko_plan* plan, int64_t* bytes);
/* The time of a run on a machine of these rates, with this context's threads and domains
 * (kumiko::Plan::predict). attainable_seconds may be NULL. Rates that are not positive: 0 seconds. */
KUMIKO_C_API kumiko_status kumiko_plan_predict(const kumiko_plan* plan, const kumiko_machine_rates* rates,
                                               double* seconds, double* attainable_seconds);

/* Plan and run in one. If validation fails, nothing is written. */
KUMIKO_C_API kumiko_status kumiko_attention_forward(const kumiko_context* context,
                                                    const kumiko_attention_args* args);
/* The same on a process-wide context, made from the environment at the first call. */
KUMIKO_C_API kumiko_status kumiko_attention_forward_default(const kumiko_attention_args* args);

/* softmax(scale * scores) v (kumiko::softmax_pv). Errors: invalid_argument, unsupported (a forced pipeline
 * that takes no precomputed scores), out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_softmax_pv(const kumiko_context* context,
                                             const kumiko_softmax_pv_args* args);

/* (scale * q k^T) v (kumiko::fused_gemm). Errors: invalid_argument, unsupported, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_fused_gemm(const kumiko_context* context,
                                             const kumiko_fused_gemm_args* args);

/* Merges attention over disjoint sets of keys (kumiko::merge_states). count is 1 to 65536. lse and lse_stride
 * may be NULL. Errors: invalid_argument, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_merge_states(const kumiko_context* context,
                                               const kumiko_attention_state* states, int64_t count,
                                               const kumiko_tensor* out, float* lse,
                                               const int64_t* lse_stride);

/* Rounds each row to int8 with a scale of its own, as attention takes queries and keys
 * (kumiko::quantize_rows): x is KUMIKO_F32, _BF16 or _F16, out KUMIKO_I8 of the same shape, scale [batch,
 * heads, seq]; scale_stride NULL or all 0: contiguous. Errors: invalid_argument, out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_quantize_rows(const kumiko_context* context, const kumiko_const_tensor* x,
                                                const kumiko_tensor* out, float* scale,
                                                const int64_t* scale_stride);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KUMIKO_ATTENTION_C_H */
