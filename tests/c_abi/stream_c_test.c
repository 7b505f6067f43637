// SPDX-License-Identifier: Apache-2.0
/* Streams and tickets from strict C99. Prints each failed expectation; exits 1 if there is one. */
#include <kumiko/stream_c.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "expect.h"

enum { HEADS = 2, TOKENS = 40, DIM = 16, SIZE = HEADS * TOKENS * DIM, CALLS = 5 };

static float q[SIZE], k[SIZE], v[SIZE], want[SIZE], out[CALLS][SIZE];

static kumiko_attention_args call_of(float* to) {
  kumiko_attention_args args = KUMIKO_ATTENTION_ARGS_INIT;
  args.q = kumiko_const_tensor_bhsd(q, 1, HEADS, TOKENS, DIM);
  args.k = kumiko_const_tensor_bhsd(k, 1, HEADS, TOKENS, DIM);
  args.v = kumiko_const_tensor_bhsd(v, 1, HEADS, TOKENS, DIM);
  args.out = kumiko_tensor_bhsd(to, 1, HEADS, TOKENS, DIM);
  args.is_causal = 1;
  return args;
}

/* What a callback saw, and a door that holds the stream in it. */
typedef struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int is_entered, is_open, calls;
  kumiko_status status;
  char error[64];
} watch;

static watch watch_of(int is_open) {
  watch made = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, is_open, 0, -1, ""};
  return made;
}

static void on_end(void* user_data, kumiko_status status) {
  watch* seen = user_data;
  pthread_mutex_lock(&seen->mutex);
  ++seen->calls;
  seen->status = status;
  strncpy(seen->error, kumiko_last_error(), sizeof seen->error - 1);
  seen->is_entered = 1;
  pthread_cond_broadcast(&seen->changed);
  while (!seen->is_open) pthread_cond_wait(&seen->changed, &seen->mutex);
  pthread_mutex_unlock(&seen->mutex);
}
static void wait_until_entered(watch* seen) {
  pthread_mutex_lock(&seen->mutex);
  while (!seen->is_entered) pthread_cond_wait(&seen->changed, &seen->mutex);
  pthread_mutex_unlock(&seen->mutex);
}
static void open_door(watch* seen) {
  pthread_mutex_lock(&seen->mutex);
  seen->is_open = 1;
  pthread_cond_broadcast(&seen->changed);
  pthread_mutex_unlock(&seen->mutex);
}

static void test_calls(kumiko_context* context) {
  kumiko_stream* stream = NULL;
  kumiko_plan* plan = NULL;
  kumiko_ticket *planned = NULL, *once = NULL, *append = NULL;
  watch seen = watch_of(1);
  kumiko_attention_args first = call_of(out[0]), second = call_of(out[1]);
  kumiko_kv_append_args rows = KUMIKO_KV_APPEND_ARGS_INIT;
  const int64_t slots[TOKENS] = {0, 1, 2, 3, 4, 5, 6, 7};
  int32_t done = -1, cancelled = -1;

  memset(out, 0xff, sizeof out);
  EXPECT(kumiko_attention_forward(context, &first) == KUMIKO_OK);
  memcpy(want, out[0], sizeof want);
  memset(out, 0xff, sizeof out);
  EXPECT(kumiko_stream_create(context, NULL, &stream) == KUMIKO_OK);
  EXPECT(kumiko_plan_create(context, &first, &plan) == KUMIKO_OK);
  EXPECT(kumiko_stream_plan_run(stream, plan, &first, on_end, &seen, &planned) == KUMIKO_OK);
  EXPECT(kumiko_stream_attention_forward(stream, &second, NULL, NULL, &once) == KUMIKO_OK);
  kumiko_plan_destroy(plan);
  rows.key = kumiko_const_tensor_bshd(k, 1, 8, HEADS, DIM);
  rows.value = kumiko_const_tensor_bshd(v, 1, 8, HEADS, DIM);
  rows.key_cache = kumiko_tensor_bshd(out[2], 1, 16, HEADS, DIM);
  rows.value_cache = kumiko_tensor_bshd(out[3], 1, 16, HEADS, DIM);
  rows.slot_mapping = slots;
  EXPECT(kumiko_stream_kv_append(stream, &rows, NULL, NULL, &append) == KUMIKO_OK);
  EXPECT(kumiko_ticket_wait(append) == KUMIKO_OK);
  EXPECT(kumiko_ticket_wait(once) == KUMIKO_OK);
  EXPECT(kumiko_ticket_wait(planned) == KUMIKO_OK);
  EXPECT(kumiko_ticket_done(planned, &done) == KUMIKO_OK && done == 1);
  EXPECT(kumiko_ticket_cancel(planned, &cancelled) == KUMIKO_OK && cancelled == 0);
  EXPECT(seen.calls == 1 && seen.status == KUMIKO_OK && strcmp(seen.error, "") == 0);
  EXPECT(memcmp(out[0], want, sizeof want) == 0 && memcmp(out[1], want, sizeof want) == 0);
  EXPECT(memcmp(out[2], k, 8 * HEADS * DIM * sizeof(float)) == 0);
  EXPECT(memcmp(out[3], v, 8 * HEADS * DIM * sizeof(float)) == 0);
  kumiko_ticket_destroy(planned);
  kumiko_ticket_destroy(once);
  kumiko_ticket_destroy(append);
  kumiko_stream_destroy(stream);
}

static void test_queue(kumiko_context* context) {
  kumiko_stream_options options = KUMIKO_STREAM_OPTIONS_INIT;
  kumiko_stream* stream = NULL;
  kumiko_ticket *tickets[3] = {NULL, NULL, NULL}, *none = NULL;
  watch holder = watch_of(0), other = watch_of(1);
  kumiko_attention_args args = call_of(out[0]);
  int32_t done = -1, cancelled = -1;

  options.capacity = 2;
  EXPECT(kumiko_stream_create(context, &options, &stream) == KUMIKO_OK);
  EXPECT(kumiko_stream_attention_forward(stream, &args, on_end, &holder, &tickets[0]) == KUMIKO_OK);
  wait_until_entered(&holder);
  memset(out, 0xff, sizeof out);
  EXPECT(kumiko_stream_attention_forward(stream, &args, NULL, NULL, &tickets[1]) == KUMIKO_OK);
  EXPECT(kumiko_stream_attention_forward(stream, &args, on_end, &other, &tickets[2]) == KUMIKO_OK);
  EXPECT_ERROR(kumiko_stream_attention_forward(stream, &args, on_end, &other, &none), KUMIKO_QUEUE_FULL,
               "2 open calls");
  EXPECT(none == NULL && other.calls == 0);
  EXPECT(kumiko_ticket_done(tickets[1], &done) == KUMIKO_OK && done == 0);
  EXPECT(kumiko_ticket_cancel(tickets[1], &cancelled) == KUMIKO_OK && cancelled == 1);
  EXPECT_ERROR(kumiko_ticket_wait(tickets[1]), KUMIKO_CANCELLED, "cancelled");
  EXPECT(kumiko_ticket_cancel(tickets[2], &cancelled) == KUMIKO_OK && cancelled == 1);
  open_door(&holder);
  EXPECT_ERROR(kumiko_ticket_wait(tickets[2]), KUMIKO_CANCELLED, "cancelled");
  EXPECT(other.calls == 1 && other.status == KUMIKO_CANCELLED && strstr(other.error, "cancelled") != NULL);
  kumiko_stream_destroy(stream);
  EXPECT(kumiko_ticket_wait(tickets[0]) == KUMIKO_OK); /* outlives its stream */
  for (int i = 0; i < 3; ++i) kumiko_ticket_destroy(tickets[i]);
  for (int i = 0; i < SIZE; ++i) EXPECT(out[0][i] != out[0][i]); /* NaN: nothing was written */
}

static void test_errors(kumiko_context* context) {
  kumiko_stream_options options = KUMIKO_STREAM_OPTIONS_INIT;
  kumiko_stream *stream = NULL, *none = NULL;
  kumiko_ticket* ticket = NULL;
  kumiko_attention_args args = call_of(out[0]);
  kumiko_kv_append_args rows = KUMIKO_KV_APPEND_ARGS_INIT;
  int32_t answer = -1;

  EXPECT(options.capacity == 64);
  EXPECT_ERROR(kumiko_stream_create(NULL, NULL, &none), KUMIKO_INVALID_ARGUMENT, "context is NULL");
  EXPECT_ERROR(kumiko_stream_create(context, NULL, NULL), KUMIKO_INVALID_ARGUMENT, "stream is NULL");
  options.capacity = 0;
  EXPECT_ERROR(kumiko_stream_create(context, &options, &none), KUMIKO_INVALID_ARGUMENT, "capacity is 0");
  options.struct_size = 4;
  EXPECT_ERROR(kumiko_stream_create(context, &options, &none), KUMIKO_INVALID_ARGUMENT, "struct_size is 4");
  EXPECT(none == NULL);
  EXPECT(kumiko_stream_create(context, NULL, &stream) == KUMIKO_OK);
  EXPECT_ERROR(kumiko_stream_attention_forward(NULL, &args, NULL, NULL, &ticket), KUMIKO_INVALID_ARGUMENT,
               "stream is NULL");
  EXPECT_ERROR(kumiko_stream_attention_forward(stream, NULL, NULL, NULL, &ticket), KUMIKO_INVALID_ARGUMENT,
               "args is NULL");
  EXPECT_ERROR(kumiko_stream_plan_run(stream, NULL, &args, NULL, NULL, &ticket), KUMIKO_INVALID_ARGUMENT,
               "plan is NULL");
  EXPECT_ERROR(kumiko_stream_kv_append(stream, &rows, NULL, NULL, &ticket), KUMIKO_INVALID_ARGUMENT, "key");
  args.softcap = -1.0f;
  EXPECT_ERROR(kumiko_stream_attention_forward(stream, &args, NULL, NULL, &ticket), KUMIKO_INVALID_ARGUMENT,
               "softcap");
  EXPECT(ticket == NULL);
  EXPECT_ERROR(kumiko_ticket_wait(NULL), KUMIKO_INVALID_ARGUMENT, "ticket is NULL");
  EXPECT_ERROR(kumiko_ticket_done(NULL, &answer), KUMIKO_INVALID_ARGUMENT, "ticket is NULL");
  EXPECT_ERROR(kumiko_ticket_cancel(NULL, &answer), KUMIKO_INVALID_ARGUMENT, "ticket is NULL");
  args = call_of(out[0]);
  EXPECT(kumiko_stream_attention_forward(stream, &args, NULL, NULL, &ticket) == KUMIKO_OK);
  EXPECT_ERROR(kumiko_ticket_done(ticket, NULL), KUMIKO_INVALID_ARGUMENT, "done is NULL");
  EXPECT_ERROR(kumiko_ticket_cancel(ticket, NULL), KUMIKO_INVALID_ARGUMENT, "cancelled is NULL");
  EXPECT(kumiko_ticket_wait(ticket) == KUMIKO_OK);
  kumiko_ticket_destroy(ticket);
  kumiko_ticket_destroy(NULL);
  kumiko_stream_destroy(stream);
  kumiko_stream_destroy(NULL);
}

/* Callback of a loop: submits itself to its stream, until that is destroyed. */
typedef struct {
  kumiko_stream* stream;
  kumiko_attention_args args;
  int calls;
  kumiko_status last;
} loop;

static void next_step(void* user_data, kumiko_status status) {
  loop* self = user_data;
  ++self->calls;
  self->last = status;
  if (status == KUMIKO_OK)
    self->last = kumiko_stream_attention_forward(self->stream, &self->args, next_step, user_data, NULL);
}

static void test_loop(kumiko_context** context) {
  loop self = {NULL, call_of(out[0]), 0, -1};
  kumiko_ticket* behind = NULL;
  kumiko_attention_args args = call_of(out[1]);
  EXPECT(kumiko_stream_create(*context, NULL, &self.stream) == KUMIKO_OK);
  EXPECT(kumiko_stream_attention_forward(self.stream, &self.args, next_step, &self, NULL) == KUMIKO_OK);
  EXPECT(kumiko_stream_attention_forward(self.stream, &args, NULL, NULL, &behind) == KUMIKO_OK);
  kumiko_context_destroy(*context); /* lives as long as its stream */
  *context = NULL;
  EXPECT(kumiko_ticket_wait(behind) == KUMIKO_OK);
  kumiko_stream_destroy(self.stream);
  EXPECT(self.calls > 0 && self.last == KUMIKO_CANCELLED);
  kumiko_ticket_destroy(behind);
}

int main(void) {
  kumiko_context* context = NULL;
  uint32_t seed = 11;
  for (int i = 0; i < SIZE; ++i) {
    seed = seed * 1664525u + 1013904223u;
    q[i] = (float)(int32_t)seed * 0x1p-31f;
    k[i] = -q[i], v[i] = 0.5f * q[i];
  }
  EXPECT(kumiko_context_create(NULL, &context) == KUMIKO_OK);
  test_calls(context);
  test_queue(context);
  test_errors(context);
  test_loop(&context);
  printf("%d expectations, %d failed\n", expectations, failures);
  return failures != 0;
}
