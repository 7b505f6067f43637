// SPDX-License-Identifier: Apache-2.0
/* The C ABI from strict C99: numbers, errors, sized structs, threads. Prints each failed expectation; exits 1
 * if there is one. */
#define _POSIX_C_SOURCE 200809L
#include <kumiko/attention_c.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "expect.h"
#include "naive_attention.h"

enum { BATCH = 2, Q_HEADS = 6, KV_HEADS = 2, Q_LEN = 5, KV_LEN = 37, HEAD_DIM = 24, V_HEAD_DIM = 17 };
static const naive_shape shape = {BATCH, Q_HEADS, KV_HEADS, Q_LEN, KV_LEN, HEAD_DIM, V_HEAD_DIM};
static float q[BATCH * Q_HEADS * Q_LEN * HEAD_DIM];
static float k[BATCH * KV_HEADS * KV_LEN * HEAD_DIM];
static float v[BATCH * KV_HEADS * KV_LEN * V_HEAD_DIM];
static float out[BATCH * Q_HEADS * Q_LEN * V_HEAD_DIM];
static float other[BATCH * Q_HEADS * Q_LEN * V_HEAD_DIM];
static float lse[BATCH * Q_HEADS * Q_LEN];
static const float untouched = 1234.5f;

static kumiko_attention_args problem(float* result) {
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  args.q = kumiko_const_tensor_bhsd(q, BATCH, Q_HEADS, Q_LEN, HEAD_DIM);
  args.k = kumiko_const_tensor_bhsd(k, BATCH, KV_HEADS, KV_LEN, HEAD_DIM);
  args.v = kumiko_const_tensor_bhsd(v, BATCH, KV_HEADS, KV_LEN, V_HEAD_DIM);
  args.out = kumiko_tensor_bhsd(result, BATCH, Q_HEADS, Q_LEN, V_HEAD_DIM);
  return args;
}

static void clear(float* data, size_t count) {
  for (size_t i = 0; i < count; ++i) data[i] = untouched;
}

static int all_untouched(const float* data, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    if (data[i] != untouched) return 0;
  }
  return 1;
}

/* Largest distance of out (and lse) from the naive double computation. */
static double distance(int causal) {
  double worst = 0;
  for (int64_t row = 0; row < BATCH * Q_HEADS * Q_LEN; ++row) {
    for (int64_t d = 0; d < V_HEAD_DIM; ++d) {
      double expected_lse = 0;
      const double expected = naive_element(&shape, q, k, v, causal, row / (Q_HEADS * Q_LEN),
                                            row / Q_LEN % Q_HEADS, row % Q_LEN, d, &expected_lse);
      worst = naive_worst(worst, fabs(expected - (double)out[row * V_HEAD_DIM + d]));
      worst = naive_worst(worst, fabs(expected_lse - (double)lse[row]));
    }
  }
  return worst;
}

/* Otherwise the tests below would take NaN for a small distance. */
static void test_distances(void) {
  const double nan = strtod("nan", NULL);
  EXPECT(isnan(naive_worst(naive_worst(naive_worst(0, 1), nan), 2)));
  EXPECT(isnan(naive_worst(0, nan)));
  EXPECT(naive_worst(naive_worst(0, 2), 1) == 2);
}

static void test_domain_memory(void) {
  kumiko_context* context = NULL;
  int32_t domains = 0;
  void* data = NULL;
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  EXPECT(kumiko_context_num_domains(context, &domains) == KUMIKO_OK && domains >= 1);
  EXPECT_ERROR(kumiko_context_num_domains(NULL, &domains), KUMIKO_INVALID_ARGUMENT, "context");
  EXPECT_ERROR(kumiko_context_num_domains(context, NULL), KUMIKO_INVALID_ARGUMENT, "num_domains");
  EXPECT_ERROR(kumiko_context_allocate(NULL, 0, 8, &data), KUMIKO_INVALID_ARGUMENT, "context");
  EXPECT_ERROR(kumiko_context_allocate(context, 0, 8, NULL), KUMIKO_INVALID_ARGUMENT, "data");
  EXPECT_ERROR(kumiko_context_allocate(context, domains, 8, &data), KUMIKO_INVALID_ARGUMENT, "domain is ");
  EXPECT_ERROR(kumiko_context_allocate(context, 0, 0, &data), KUMIKO_INVALID_ARGUMENT, "bytes is 0");
  EXPECT_ERROR(kumiko_context_allocate(context, 0, INT64_MAX, &data), KUMIKO_OUT_OF_MEMORY, "bytes");
  EXPECT(data == NULL);
  /* Keys of one head in the last domain, used after the context is gone. */
  EXPECT(kumiko_context_allocate(context, domains - 1, sizeof(k), &data) == KUMIKO_OK && data != NULL);
  kumiko_context_destroy(context);
  if (data != NULL) {
    const char zeros[sizeof(k)] = {0};
    EXPECT(memcmp(data, zeros, sizeof(k)) == 0);
    memcpy(data, k, sizeof(k));
    EXPECT(memcmp(data, k, sizeof(k)) == 0);
  }
  kumiko_free(data, sizeof(k));
  kumiko_free(NULL, 8);
}

static void test_views(void) {
  const kumiko_tensor a = kumiko_tensor_bhsd(out, 2, 3, 5, 7);
  const kumiko_tensor b = kumiko_tensor_bshd(out, 2, 5, 3, 7);
  const int64_t dims[4] = {2, 3, 5, 7}, bhsd[4] = {105, 35, 7, 1}, bshd[4] = {105, 7, 21, 1};
  EXPECT(a.data == out && a.dtype == KUMIKO_F32 && a.reserved == 0);
  EXPECT(memcmp(a.shape, dims, sizeof(dims)) == 0 && memcmp(a.stride, bhsd, sizeof(bhsd)) == 0);
  EXPECT(memcmp(b.shape, dims, sizeof(dims)) == 0 && memcmp(b.stride, bshd, sizeof(bshd)) == 0);
  {
    const kumiko_const_tensor c = kumiko_const_tensor_bhsd(out, 2, 3, 5, 7);
    const kumiko_const_tensor d = kumiko_const_tensor_bshd(out, 2, 5, 3, 7);
    EXPECT(c.data == out && c.dtype == KUMIKO_F32 && c.reserved == 0 && d.data == out);
    EXPECT(memcmp(c.shape, dims, sizeof(dims)) == 0 && memcmp(c.stride, bhsd, sizeof(bhsd)) == 0);
    EXPECT(memcmp(d.shape, dims, sizeof(dims)) == 0 && memcmp(d.stride, bshd, sizeof(bshd)) == 0);
  }
}

/* Which pipeline a plan takes for so few rows depends on the core. */
static void test_numbers(const kumiko_context* context) {
  const int32_t pipelines[] = {KUMIKO_PIPELINE_AUTOMATIC, KUMIKO_PIPELINE_ONLINE, KUMIKO_PIPELINE_DECODE};
  for (int i = 0; i < 6; ++i) {
    const int causal = i % 2;
    kumiko_attention_args args = problem(out);
    args.lse = lse;
    args.is_causal = causal;
    args.pipeline = pipelines[i / 2];
    clear(out, sizeof(out) / sizeof(float));
    EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
    /* 37 scores below 5 and values below 1 in f32: a bound of 64 roundings of 2^-24 leaves a wide margin. */
    EXPECT(distance(causal) < 4e-6);
  }
}

/* Each rate has its effect. */
static void test_prediction(const kumiko_plan* plan) {
  kumiko_machine_rates rates = {1, 1e30, 1e30, 0};
  double flops = 0, core = 0, domain = 0, started = 0, attainable = 0;
  EXPECT(kumiko_plan_predict(plan, &rates, &flops, &attainable) == KUMIKO_OK);
  EXPECT(flops > 1 && attainable > 0 && attainable <= flops);
  rates.start_seconds = 1000;
  EXPECT(kumiko_plan_predict(plan, &rates, &started, NULL) == KUMIKO_OK && started == flops + 1000);
  rates.start_seconds = 0;
  rates.core_flops = 1e30;
  rates.core_bandwidth = 1;
  EXPECT(kumiko_plan_predict(plan, &rates, &core, NULL) == KUMIKO_OK && core > 1 && core != flops);
  rates.core_bandwidth = 1e30;
  rates.domain_bandwidth = 0.5;
  EXPECT(kumiko_plan_predict(plan, &rates, &domain, NULL) == KUMIKO_OK && domain > core);
  rates.core_flops = 0;
  EXPECT(kumiko_plan_predict(plan, &rates, &core, NULL) == KUMIKO_OK && core == 0);
  EXPECT_ERROR(kumiko_plan_predict(NULL, &rates, &core, NULL), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_plan_predict(plan, NULL, &core, NULL), KUMIKO_INVALID_ARGUMENT, "rates is NULL");
  EXPECT_ERROR(kumiko_plan_predict(plan, &rates, NULL, NULL), KUMIKO_INVALID_ARGUMENT, "seconds is NULL");
}

static void test_plan(const kumiko_context* context) {
  kumiko_attention_args args = problem(NULL);
  kumiko_plan* plan = NULL;
  const char *text = NULL, *again = NULL;
  int64_t bytes = -1;
  args.q.data = args.k.data = args.v.data = NULL;
  args.is_causal = 1;
  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  EXPECT(plan != NULL);
  EXPECT(kumiko_plan_explain(plan, &text) == KUMIKO_OK && text != NULL && strlen(text) > 0);
  EXPECT(kumiko_plan_explain(plan, &again) == KUMIKO_OK && again == text);
  EXPECT(kumiko_plan_workspace_bytes(plan, &bytes) == KUMIKO_OK && bytes >= 0);
  test_prediction(plan);

  EXPECT_ERROR(kumiko_plan_run(plan, &args), KUMIKO_INVALID_ARGUMENT, "q");
  args = problem(out);
  args.lse = lse;
  args.is_causal = 1;
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  args.lse = NULL;
  args.out.data = other;
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) == 0);
  EXPECT(kumiko_attention_forward_default(&args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) == 0);

  args.is_causal = 0;
  EXPECT_ERROR(kumiko_plan_run(plan, &args), KUMIKO_INVALID_ARGUMENT, "is_causal");
  kumiko_plan_destroy(plan);
}

static void test_plan_update(const kumiko_context* context) {
  int32_t lengths[BATCH] = {KV_LEN, 1};
  kumiko_attention_args args = problem(other);
  kumiko_plan* plan = NULL;
  const char* text = NULL;
  char before[2048];
  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  EXPECT_ERROR(kumiko_plan_update(plan, lengths, BATCH), KUMIKO_INVALID_ARGUMENT, "seqused_k");
  kumiko_plan_destroy(plan);

  args.seqused_k = lengths;
  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  EXPECT(kumiko_plan_explain(plan, &text) == KUMIKO_OK && text != NULL);
  snprintf(before, sizeof(before), "%s", text);
  lengths[0] = 3;
  lengths[1] = KV_LEN;
  EXPECT_ERROR(kumiko_plan_update(NULL, lengths, BATCH), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_plan_update(plan, NULL, BATCH), KUMIKO_INVALID_ARGUMENT, "seqused_k is NULL");
  EXPECT_ERROR(kumiko_plan_update(plan, lengths, -1), KUMIKO_INVALID_ARGUMENT, "count is -1");
  EXPECT_ERROR(kumiko_plan_update(plan, lengths, 1), KUMIKO_INVALID_ARGUMENT, "count is 1");
  EXPECT_ERROR(kumiko_plan_run(plan, &args), KUMIKO_INVALID_ARGUMENT, "seqused_k[0]");
  EXPECT(kumiko_plan_update(plan, lengths, BATCH) == KUMIKO_OK);
  EXPECT(kumiko_plan_explain(plan, &text) == KUMIKO_OK && text != NULL);
  EXPECT(strcmp(text, before) != 0); /* other bytes of K and V */
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK);
  args.out.data = out;
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) == 0);
  kumiko_plan_destroy(plan);
}

static void test_merge(const kumiko_context* context) {
  float values[2][4] = {{1, 2, 3, 4}, {5, 6, 7, 8}}, result[4] = {0, 0, 0, 0}, sums[2] = {0.5f, 0.5f},
        merged = 0;
  kumiko_attention_state states[2];
  const kumiko_tensor to = kumiko_tensor_bhsd(result, 1, 1, 1, 4);
  memset(states, 0, sizeof(states));
  for (int n = 0; n < 2; ++n) {
    states[n].out = kumiko_const_tensor_bhsd(values[n], 1, 1, 1, 4);
    states[n].lse = &sums[n];
  }
  EXPECT(kumiko_merge_states(context, states, 2, &to, &merged, NULL) == KUMIKO_OK);
  for (int d = 0; d < 4; ++d) EXPECT(fabs((double)result[d] - (3.0 + d)) < 1e-6); /* equal weights */
  EXPECT(fabs((double)merged - (0.5 + log(2.0))) < 1e-6);
  EXPECT_ERROR(kumiko_merge_states(NULL, states, 2, &to, &merged, NULL), KUMIKO_INVALID_ARGUMENT, "context");
  EXPECT_ERROR(kumiko_merge_states(context, NULL, 2, &to, &merged, NULL), KUMIKO_INVALID_ARGUMENT, "states");
  EXPECT_ERROR(kumiko_merge_states(context, states, 2, NULL, &merged, NULL), KUMIKO_INVALID_ARGUMENT, "out");
  EXPECT_ERROR(kumiko_merge_states(context, states, 0, &to, &merged, NULL), KUMIKO_INVALID_ARGUMENT,
               "count is 0");
  states[1].out.dtype = 9;
  EXPECT_ERROR(kumiko_merge_states(context, states, 2, &to, &merged, NULL), KUMIKO_INVALID_ARGUMENT,
               "states[1].out.dtype is 9");
}

static void test_terms(const kumiko_context* context) {
  /* A mask that shows every key, a bias of zeros and slopes of zero change no bit; a softcap does. */
  static const float zeros[Q_HEADS] = {0};
  static const unsigned char ones[1] = {1};
  kumiko_attention_args args = problem(out);
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  args = problem(other);
  args.bias = kumiko_const_tensor_bhsd(zeros, BATCH, Q_HEADS, Q_LEN, args.k.shape[2]);
  args.mask = args.bias;
  args.mask.data = ones;
  args.mask.dtype = KUMIKO_BOOLEAN;
  memset(args.bias.stride, 0, sizeof(args.bias.stride));
  memset(args.mask.stride, 0, sizeof(args.mask.stride));
  args.alibi_slopes = zeros;
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) == 0);
  args.softcap = 0.5f;
  EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) != 0);
  {
    int32_t domains[BATCH * Q_HEADS] = {0}; /* at least one a KV head */
    args.kv_domains = domains;
    EXPECT(kumiko_attention_forward(context, &args) == KUMIKO_OK);
    domains[0] = 100000;
    EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_INVALID_ARGUMENT, "kv_domains[0, 0]");
    args.kv_domains = NULL;
  }
  args.softcap = -1.0f;
  EXPECT_ERROR(kumiko_attention_forward(context, &args), KUMIKO_INVALID_ARGUMENT, "softcap");
}

static void test_context(void) {
  kumiko_context_options options = KUMIKO_CONTEXT_OPTIONS_INIT;
  kumiko_context* context = NULL;
  kumiko_plan* plan = NULL;
  const char* text = NULL;
  int32_t threads = 0;
  kumiko_attention_args args = problem(out);
  options.tuning = "/no/forward.lse.data"; /* a path is no name of a field, which C has others for */
  EXPECT_ERROR(kumiko_context_create(&options, &context), KUMIKO_INVALID_ARGUMENT, "/no/forward.lse.data");
  options.tuning = NULL;
  options.num_threads = 1;
  options.executor = "serial";
  options.isa = "reference";
  options.bind = "";
  EXPECT(kumiko_context_create(&options, &context) == KUMIKO_OK);
  EXPECT(kumiko_context_num_threads(context, &threads) == KUMIKO_OK && threads == 1);
  EXPECT(kumiko_context_describe(context, &text) == KUMIKO_OK);
  EXPECT(text != NULL && strstr(text, "serial") != NULL && strstr(text, "reference") != NULL);
  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  kumiko_context_destroy(context);
  EXPECT(kumiko_plan_run(plan, &args) == KUMIKO_OK); /* the plan keeps its context alive */
  kumiko_plan_destroy(plan);
  kumiko_context_destroy(NULL);
  kumiko_plan_destroy(NULL);

  context = NULL;
  options.isa = "z80";
  EXPECT_ERROR(kumiko_context_create(&options, &context), KUMIKO_INVALID_ARGUMENT, "z80");
  EXPECT(context == NULL);
  options.isa = NULL;
  options.num_threads = -3;
  EXPECT_ERROR(kumiko_context_create(&options, &context), KUMIKO_INVALID_ARGUMENT, "num_threads");
  options.num_threads = 0;
  options.reserved = 1;
  EXPECT_ERROR(kumiko_context_create(&options, &context), KUMIKO_INVALID_ARGUMENT, "reserved");
  EXPECT(context == NULL);
}

static void test_null_pointers(const kumiko_context* context) {
  const kumiko_attention_args args = problem(out);
  kumiko_plan* plan = NULL;
  const char* text = NULL;
  int32_t threads = 0;
  int64_t bytes = 0;
  EXPECT_ERROR(kumiko_context_create(NULL, NULL), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_context_describe(NULL, &text), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_context_describe(context, NULL), KUMIKO_INVALID_ARGUMENT, "text is NULL");
  EXPECT_ERROR(kumiko_context_num_threads(NULL, &threads), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_context_num_threads(context, NULL), KUMIKO_INVALID_ARGUMENT, "num_threads is NULL");
  EXPECT_ERROR(kumiko_context_write_trace(NULL), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_context_write_trace(context), KUMIKO_INVALID_ARGUMENT, "trace");
  EXPECT_ERROR(kumiko_plan_create(NULL, &args, &plan), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_plan_create(context, NULL, &plan), KUMIKO_INVALID_ARGUMENT, "args is NULL");
  EXPECT_ERROR(kumiko_plan_create(context, &args, NULL), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_plan_run(NULL, &args), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_plan_explain(NULL, &text), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_plan_workspace_bytes(NULL, &bytes), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  EXPECT_ERROR(kumiko_attention_forward(NULL, &args), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_attention_forward(context, NULL), KUMIKO_INVALID_ARGUMENT, "args is NULL");
  EXPECT_ERROR(kumiko_attention_forward_default(NULL), KUMIKO_INVALID_ARGUMENT, "args is NULL");
  EXPECT(kumiko_plan_create(context, &args, &plan) == KUMIKO_OK);
  EXPECT_ERROR(kumiko_plan_run(plan, NULL), KUMIKO_INVALID_ARGUMENT, "args is NULL");
  EXPECT_ERROR(kumiko_plan_explain(plan, NULL), KUMIKO_INVALID_ARGUMENT, "text is NULL");
  EXPECT_ERROR(kumiko_plan_workspace_bytes(plan, NULL), KUMIKO_INVALID_ARGUMENT, "bytes is NULL");
  kumiko_plan_destroy(plan);
}

/* Each case breaks one field and must be refused by name before anything is written. */
static void test_bad_fields(const kumiko_context* context) {
  kumiko_attention_args args;
  clear(other, sizeof(other) / sizeof(float));
#define REFUSED(change, status, piece) \
  args = problem(other);               \
  change;                              \
  EXPECT_ERROR(kumiko_attention_forward(context, &args), status, piece)
  REFUSED(args.q.dtype = 7, KUMIKO_INVALID_ARGUMENT, "q.dtype is 7");
  REFUSED(args.k.dtype = 256, KUMIKO_INVALID_ARGUMENT, "k.dtype is 256");
  REFUSED(args.v.reserved = 1, KUMIKO_INVALID_ARGUMENT, "v.reserved is 1");
  REFUSED(args.out.dtype = -1, KUMIKO_INVALID_ARGUMENT, "out.dtype is -1");
  REFUSED(args.is_causal = 2, KUMIKO_INVALID_ARGUMENT, "is_causal is 2");
  REFUSED(args.causal_alignment = 2, KUMIKO_INVALID_ARGUMENT, "causal_alignment is 2");
  REFUSED(args.pipeline = 256, KUMIKO_INVALID_ARGUMENT, "pipeline is 256");
  REFUSED(args.v.shape[2] = KV_LEN - 1, KUMIKO_INVALID_ARGUMENT, "v");
  REFUSED(args.q.data = NULL, KUMIKO_INVALID_ARGUMENT, "q");
#undef REFUSED
  EXPECT(all_untouched(other, sizeof(other) / sizeof(float)));
}

static void test_sized_structs(const kumiko_context* context) {
  union {
    kumiko_attention_args args;
    unsigned char bytes[sizeof(kumiko_attention_args) + 64];
  } caller;
  union {
    kumiko_context_options options;
    unsigned char bytes[sizeof(kumiko_context_options) + 8];
  } caller_options;
  static const size_t bad_sizes[] = {0, 8, sizeof(kumiko_attention_args) - 4, 4096 + 8, (size_t)-8};
  const kumiko_attention_args whole = problem(out);
  kumiko_context* made = NULL;
  EXPECT(kumiko_attention_forward(context, &whole) == KUMIKO_OK);

  /* An older caller: the bytes after `out` are not part of its struct and must be ignored; the defaults
   * apply. */
  memset(&caller, 0xff, sizeof(caller));
  caller.args = problem(other);
  caller.args.struct_size = offsetof(kumiko_attention_args, lse);
  memset(caller.bytes + caller.args.struct_size, 0xff, sizeof(caller.bytes) - caller.args.struct_size);
  clear(other, sizeof(other) / sizeof(float));
  EXPECT(kumiko_attention_forward(context, &caller.args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) == 0);

  /* A newer caller that sets no new field. */
  memset(&caller, 0, sizeof(caller));
  caller.args = problem(other);
  caller.args.struct_size = sizeof(caller);
  clear(other, sizeof(other) / sizeof(float));
  EXPECT(kumiko_attention_forward(context, &caller.args) == KUMIKO_OK);
  EXPECT(memcmp(out, other, sizeof(out)) == 0);

  /* A newer caller that sets the last byte of a field that the library lacks. */
  caller.bytes[sizeof(caller) - 1] = 1;
  clear(other, sizeof(other) / sizeof(float));
  EXPECT_ERROR(kumiko_attention_forward(context, &caller.args), KUMIKO_UNSUPPORTED,
               "args sets a field at byte");
  EXPECT(all_untouched(other, sizeof(other) / sizeof(float)));

  for (size_t i = 0; i < sizeof(bad_sizes) / sizeof(bad_sizes[0]); ++i) {
    caller.args = problem(other);
    caller.args.struct_size = bad_sizes[i];
    EXPECT_ERROR(kumiko_attention_forward(context, &caller.args), KUMIKO_INVALID_ARGUMENT,
                 "args->struct_size is");
  }

  memset(&caller_options, 0xff, sizeof(caller_options));
  caller_options.options.struct_size = offsetof(kumiko_context_options, cpus);
  caller_options.options.num_threads = 1;
  caller_options.options.reserved = 0;
  EXPECT(kumiko_context_create(&caller_options.options, &made) == KUMIKO_OK);
  kumiko_context_destroy(made);
  made = NULL;
  memset(&caller_options, 0, sizeof(caller_options));
  caller_options.options.struct_size = sizeof(caller_options);
  caller_options.bytes[sizeof(caller_options) - 8] = 1;
  EXPECT_ERROR(kumiko_context_create(&caller_options.options, &made), KUMIKO_UNSUPPORTED,
               "options sets a field");
  caller_options.options.struct_size = 1;
  EXPECT_ERROR(kumiko_context_create(&caller_options.options, &made), KUMIKO_INVALID_ARGUMENT,
               "options->struct_size is 1;");
  EXPECT(made == NULL);
}

static void* fails_elsewhere(void* ignored) {
  (void)ignored;
  EXPECT(strcmp(kumiko_last_error(), "") == 0); /* a new thread has had no error */
  EXPECT_ERROR(kumiko_plan_run(NULL, NULL), KUMIKO_INVALID_ARGUMENT, "plan is NULL");
  return NULL;
}

static void test_last_error(const kumiko_context* context) {
  pthread_t thread;
  int created, joined = -1;
  int32_t threads = 0;
  EXPECT_ERROR(kumiko_attention_forward_default(NULL), KUMIKO_INVALID_ARGUMENT, "args is NULL");
  created = pthread_create(&thread, NULL, fails_elsewhere, NULL);
  if (created == 0) joined = pthread_join(thread, NULL);
  EXPECT(created == 0 && joined == 0); /* only now: the thread counts expectations, too */
  EXPECT(strstr(kumiko_last_error(), "args is NULL") != NULL); /* the other thread's error is not ours */
  EXPECT(kumiko_context_num_threads(context, &threads) == KUMIKO_OK);
  EXPECT(strcmp(kumiko_last_error(), "") == 0);
}

static void test_names(void) {
  EXPECT(strcmp(kumiko_version(), EXPECTED_VERSION) == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_OK), "ok") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_INVALID_ARGUMENT), "invalid_argument") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_UNSUPPORTED), "unsupported") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_OUT_OF_MEMORY), "out_of_memory") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_INVALID_ENVIRONMENT), "invalid_environment") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_INTERNAL), "internal") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_QUEUE_FULL), "queue_full") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_CANCELLED), "cancelled") == 0);
  EXPECT(strcmp(kumiko_status_name(KUMIKO_COMMUNICATION), "communication") == 0);
  EXPECT(strcmp(kumiko_status_name(-1), "unknown") == 0 && strcmp(kumiko_status_name(9), "unknown") == 0);
}

int main(void) {
  kumiko_context* context = NULL;
  naive_fill(q, sizeof(q) / sizeof(float), 1);
  naive_fill(k, sizeof(k) / sizeof(float), 2);
  naive_fill(v, sizeof(v) / sizeof(float), 3);
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  if (context == NULL) return 1;
  test_distances();
  test_views();
  test_domain_memory();
  test_numbers(context);
  test_plan(context);
  test_plan_update(context);
  test_merge(context);
  test_terms(context);
  test_context();
  test_null_pointers(context);
  test_bad_fields(context);
  test_sized_structs(context);
  test_last_error(context);
  test_names();
  kumiko_context_destroy(context);
  printf("%d expectations, %d failed\n", expectations, failures);
  return failures == 0 ? 0 : 1;
}
