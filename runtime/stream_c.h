/* SPDX-License-Identifier: Apache-2.0 */
/* Asynchronous calls, from C: kumiko::Stream and kumiko::Ticket of <kumiko/stream.h>, which has the semantics
 * of every call. Errors, versions and threads are those of <kumiko/attention_c.h>. */
#ifndef KUMIKO_STREAM_C_H
#define KUMIKO_STREAM_C_H

#include "attention_c.h"
#include "kv_append_c.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A queue of calls and the thread that makes them in order. */
typedef struct kumiko_stream kumiko_stream;
/* A submitted call. */
typedef struct kumiko_ticket kumiko_ticket;

/* Called once by the stream's thread, with the outcome of the call or KUMIKO_CANCELLED, before the ticket is
 * done and before the next call starts, perhaps before the submitting call has returned. In it
 * kumiko_last_error() is the outcome's message. It may submit to the same stream, update the plan and destroy
 * the stream. */
typedef void (*kumiko_callback)(void* user_data, kumiko_status status);

typedef struct kumiko_stream_options {
  size_t struct_size;
  int64_t capacity; /* calls that may be open at once, 1..65536 */
} kumiko_stream_options;

#define KUMIKO_STREAM_OPTIONS_INIT \
  { sizeof(kumiko_stream_options), 64 }

/* options == NULL: every default. Errors: invalid_argument, unsupported (no thread could be started; in a
 * forked child), out_of_memory. */
KUMIKO_C_API kumiko_status kumiko_stream_create(const kumiko_context* context,
                                                const kumiko_stream_options* options, kumiko_stream** stream);
/* Cancels the calls that have not started and waits for the one that runs and for all callbacks, which may
 * still submit to the stream and are refused. Within a callback of the stream it waits for nothing. Tickets
 * stay valid. NULL is accepted and does nothing. */
KUMIKO_C_API void kumiko_stream_destroy(kumiko_stream* stream);

/* Submit kumiko_plan_run on a plan of the stream's context, kumiko_attention_forward, and kumiko_kv_append.
 * The structs are copied and checked; the tensors and arrays that they point to must stay until the call has
 * ended, the arrays unchanged. The plan may be destroyed. callback and ticket may be NULL; a ticket must be
 * destroyed. If a call cannot be submitted, the callback is not called. Errors: those of the call,
 * invalid_argument (a plan of another context), queue_full, cancelled (the stream is being destroyed),
 * unsupported (in a forked child). */
KUMIKO_C_API kumiko_status kumiko_stream_plan_run(const kumiko_stream* stream, const kumiko_plan* plan,
                                                  const kumiko_attention_args* args, kumiko_callback callback,
                                                  void* user_data, kumiko_ticket** ticket);
KUMIKO_C_API kumiko_status kumiko_stream_attention_forward(const kumiko_stream* stream,
                                                           const kumiko_attention_args* args,
                                                           kumiko_callback callback, void* user_data,
                                                           kumiko_ticket** ticket);
KUMIKO_C_API kumiko_status kumiko_stream_kv_append(const kumiko_stream* stream,
                                                   const kumiko_kv_append_args* args,
                                                   kumiko_callback callback, void* user_data,
                                                   kumiko_ticket** ticket);

/* Sleeps until the call has been made or cancelled and its callback has returned, and returns its outcome.
 * invalid_argument also in a callback of the stream, for the ticket of a later call. */
KUMIKO_C_API kumiko_status kumiko_ticket_wait(const kumiko_ticket* ticket);
/* *done: 1 if kumiko_ticket_wait would return at once, otherwise 0. */
KUMIKO_C_API kumiko_status kumiko_ticket_done(const kumiko_ticket* ticket, int32_t* done);
/* *cancelled: 1 if the call had not started and never will, otherwise 0. */
KUMIKO_C_API kumiko_status kumiko_ticket_cancel(const kumiko_ticket* ticket, int32_t* cancelled);
/* Frees the ticket; its call is made nevertheless. NULL is accepted and does nothing. */
KUMIKO_C_API void kumiko_ticket_destroy(kumiko_ticket* ticket);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* KUMIKO_STREAM_C_H */
