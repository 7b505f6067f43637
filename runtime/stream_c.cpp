// SPDX-License-Identifier: Apache-2.0
// Streams and tickets in the C ABI. It only converts.
#include "stream_c.h"

#include <memory>

#include "runtime/convert_c.h"
#include "runtime/handles_c.h"
#include "runtime/stream.h"

struct kumiko_stream {
  kumiko::Stream stream;
};

struct kumiko_ticket {
  kumiko::Ticket ticket;
};

namespace {

using kumiko::Status;
using namespace kumiko::c_abi;

kumiko::StreamCallback callback_of(kumiko_callback callback, void* user_data) {
  if (callback == nullptr) return {};
  return
      [=](const Status& outcome) { callback(user_data, report(outcome.code(), outcome.message().c_str())); };
}

/// Calls submit(args, ticket), whose ticket goes to `*out` if that is wanted.
template <class Args, class Given, class Submit>
kumiko_status submit_converted(const kumiko_stream* stream, const Given* given, kumiko_ticket** out,
                               Submit submit) {
  return guarded([&]() -> Status {
    if (stream == nullptr) return null_argument("stream", "a kumiko_stream");
    Args converted;
    if (Status s = convert_args(given, &converted); !s.ok()) return s;
    auto handle = out == nullptr ? nullptr : std::make_unique<kumiko_ticket>();
    if (Status s = submit(converted, handle ? &handle->ticket : nullptr); !s.ok()) return s;
    if (out != nullptr) *out = handle.release();
    return {};
  });
}

}  // namespace

extern "C" {

kumiko_status kumiko_stream_create(const kumiko_context* context, const kumiko_stream_options* options,
                                   kumiko_stream** stream) {
  return guarded([&]() -> Status {
    if (context == nullptr) return null_argument("context", "a kumiko_context");
    if (stream == nullptr) return null_argument("stream", "where to put the new handle");
    kumiko::StreamOptions converted;
    if (Status s = convert_options(options, &converted); !s.ok()) return s;
    auto handle = std::make_unique<kumiko_stream>();
    if (Status s = kumiko::Stream::create(context->context, converted, &handle->stream); !s.ok()) return s;
    *stream = handle.release();
    return {};
  });
}

void kumiko_stream_destroy(kumiko_stream* stream) {
  delete stream;
}

kumiko_status kumiko_stream_plan_run(const kumiko_stream* stream, const kumiko_plan* plan,
                                     const kumiko_attention_args* args, kumiko_callback callback,
                                     void* user_data, kumiko_ticket** ticket) {
  return submit_converted<kumiko::AttentionArgs>(
      stream, args, ticket, [&](const kumiko::AttentionArgs& converted, kumiko::Ticket* to) {
        if (plan == nullptr) return null_argument("plan", "a kumiko_plan");
        return stream->stream.submit(plan->plan, converted, to, callback_of(callback, user_data));
      });
}

kumiko_status kumiko_stream_attention_forward(const kumiko_stream* stream, const kumiko_attention_args* args,
                                              kumiko_callback callback, void* user_data,
                                              kumiko_ticket** ticket) {
  return submit_converted<kumiko::AttentionArgs>(
      stream, args, ticket, [&](const kumiko::AttentionArgs& converted, kumiko::Ticket* to) {
        return stream->stream.submit(converted, to, callback_of(callback, user_data));
      });
}

kumiko_status kumiko_stream_kv_append(const kumiko_stream* stream, const kumiko_kv_append_args* args,
                                      kumiko_callback callback, void* user_data, kumiko_ticket** ticket) {
  return submit_converted<kumiko::KvAppendArgs>(
      stream, args, ticket, [&](const kumiko::KvAppendArgs& converted, kumiko::Ticket* to) {
        return stream->stream.submit(converted, to, callback_of(callback, user_data));
      });
}

kumiko_status kumiko_ticket_wait(const kumiko_ticket* ticket) {
  return guarded([&]() -> Status {
    if (ticket == nullptr) return null_argument("ticket", "a kumiko_ticket");
    return ticket->ticket.wait();
  });
}

kumiko_status kumiko_ticket_done(const kumiko_ticket* ticket, int32_t* done) {
  return guarded([&]() -> Status {
    if (ticket == nullptr) return null_argument("ticket", "a kumiko_ticket");
    if (done == nullptr) return null_argument("done", "where to put the answer");
    *done = ticket->ticket.done() ? 1 : 0;
    return {};
  });
}

kumiko_status kumiko_ticket_cancel(const kumiko_ticket* ticket, int32_t* cancelled) {
  return guarded([&]() -> Status {
    if (ticket == nullptr) return null_argument("ticket", "a kumiko_ticket");
    if (cancelled == nullptr) return null_argument("cancelled", "where to put the answer");
    *cancelled = ticket->ticket.cancel() ? 1 : 0;
    return {};
  });
}

void kumiko_ticket_destroy(kumiko_ticket* ticket) {
  delete ticket;
}

}  // extern "C"
