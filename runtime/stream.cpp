// SPDX-License-Identifier: Apache-2.0
// Streams and tickets as callers see them: arguments are checked here.
#include "runtime/stream.h"

#include <string>
#include <utility>

#include "runtime/context.h"
#include "runtime/plan.h"
#include "runtime/stream_queue.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

constexpr std::int64_t kMaxCapacity = 65536;

Status check_stream(const Stream::Impl* stream) {
  if (!stream) return {Code::invalid_argument, "stream is empty; expected one made by Stream::create"};
  return stream->is_from_before_fork() ? forked_error() : Status{};
}

}  // namespace

Stream& Stream::operator=(Stream&& other) noexcept {
  if (this == &other) return *this;
  if (impl_) impl_->close();
  impl_ = std::move(other.impl_);
  return *this;
}

Stream::~Stream() {
  if (impl_) impl_->close();  // Callbacks may still submit to this stream, which reads impl_.
}

Status Stream::create(const Context& context, const StreamOptions& options, Stream* stream) {
  return guarded([&]() -> Status {
    if (!stream) return {Code::invalid_argument, "stream is null; expected a Stream to fill"};
    if (Status s = check_context(context); !s.ok()) return s;
    if (options.capacity < 1 || options.capacity > kMaxCapacity)
      return invalid("capacity", options.capacity, "1.." + std::to_string(kMaxCapacity));
    auto impl = std::make_shared<Impl>(context, options.capacity);
    if (Status s = impl->start(); !s.ok()) return s;
    Stream made;
    made.impl_ = std::move(impl);
    *stream = std::move(made);
    return {};
  });
}

Status Stream::submit(const Plan& plan, const AttentionArgs& args, Ticket* ticket,
                      StreamCallback callback) const {
  return guarded([&]() -> Status {
    const std::shared_ptr<Impl> stream = impl_;  // The call's callback may destroy this Stream meanwhile.
    if (Status s = check_stream(stream.get()); !s.ok()) return s;
    const std::shared_ptr<Plan::Impl>& planned = impl_of(plan);
    if (!planned) return {Code::invalid_argument, "plan is empty; expected one made by plan()"};
    if (planned->context != impl_of(stream->context))
      return {Code::invalid_argument, "plan is of another context; expected a plan of the stream's context"};
    if (Status s = check_run(*planned, args); !s.ok()) return s;
    return stream->submit(PlannedRun{SubmittedPlan(plan), args}, ticket, std::move(callback));
  });
}

Status Stream::submit(const AttentionArgs& args, Ticket* ticket, StreamCallback callback) const {
  return guarded([&]() -> Status {
    const std::shared_ptr<Impl> stream = impl_;
    if (Status s = check_stream(stream.get()); !s.ok()) return s;
    if (Status s = check_call(args); !s.ok()) return s;
    return stream->submit(args, ticket, std::move(callback));
  });
}

Status Stream::submit(const KvAppendArgs& args, Ticket* ticket, StreamCallback callback) const {
  return guarded([&]() -> Status {
    const std::shared_ptr<Impl> stream = impl_;
    if (Status s = check_stream(stream.get()); !s.ok()) return s;
    if (Status s = validate_kv_append(args, stream->context.num_domains()); !s.ok()) return s;
    return stream->submit(args, ticket, std::move(callback));
  });
}

Status Ticket::wait() const {
  return guarded([&]() -> Status {
    if (!state_) return {Code::invalid_argument, "ticket is empty; expected one of Stream::submit"};
    return state_->wait();
  });
}

bool Ticket::done() const {
  return state_ && state_->phase.load(std::memory_order_acquire) == TicketPhase::done;
}

bool Ticket::cancel() const {
  if (!state_) return false;
  const std::shared_ptr<Stream::Impl> stream = state_->stream.lock();
  return stream && !stream->is_from_before_fork() && stream->cancel(*state_);
}

}  // namespace kumiko
