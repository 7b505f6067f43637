// SPDX-License-Identifier: Apache-2.0
#include "runtime/stream_queue.h"

#include <cfenv>
#include <string>
#include <system_error>

#include "kernels/float_state.h"
#include "scheduler/signals.h"

namespace kumiko {
namespace {

/// The stream whose thread this is.
thread_local const Stream::Impl* t_stream = nullptr;

Status cancelled_status() {
  return {Code::cancelled, "call cancelled"};  // short enough to need no memory
}

/// Calls `callback`, if there is one, and forgets it. No exception leaves it.
void call_back(StreamCallback& callback, const Status& status) noexcept {
  try {
    if (callback) callback(status);
  } catch (...) {
  }
  callback = nullptr;
}

}  // namespace

Status Ticket::State::wait() const {
  for (TicketPhase seen; (seen = phase.load(std::memory_order_acquire)) != TicketPhase::done;
       phase.wait(seen)) {
    const std::shared_ptr<Stream::Impl> owner = stream.lock();
    if (!owner) continue;  // it has ended since
    if (owner->is_from_before_fork()) return forked_error();
    if (t_stream != owner.get()) continue;
    if (seen == TicketPhase::ending) break;
    return {Code::invalid_argument,
            "ticket is of a call that has not ended; expected an earlier one in a callback of its stream"};
  }
  return status;
}

void Ticket::State::finish() noexcept {
  phase.store(TicketPhase::done, std::memory_order_release);
  phase.notify_all();
}

Status Stream::Impl::start() {
  try {
    thread_ = std::thread([stream = shared_from_this()] { stream->serve(); });
  } catch (const std::system_error& error) {
    return {Code::unsupported,
            "stream has no thread; expected the system to start one (" + std::string(error.what()) + ")"};
  }
  return {};
}

Status Stream::Impl::submit(SubmittedCall call, Ticket* ticket, StreamCallback callback) {
  std::shared_ptr<Ticket::State> state;
  if (ticket) state = std::make_shared<Ticket::State>(weak_from_this());
  {
    const std::lock_guard lock(mutex_);
    if (is_closing_) return {Code::cancelled, "stream is being destroyed; expected an open one"};
    if (free_.empty())
      return {Code::queue_full,
              "stream has " + std::to_string(capacity_) + " open calls; expected fewer than its capacity"};
    const QueuePlaces::iterator place = free_.begin();
    place->call = std::move(call);
    place->callback.swap(callback);
    place->ticket = state;
    if (ticket) {
      state->place = place;
      ticket->state_.swap(state);  // before the thread can see the call: its callback may use the ticket
    }
    waiting_.splice(waiting_.end(), free_, place);
  }
  wake_.notify_one();
  return {};
}

bool Stream::Impl::cancel(Ticket::State& ticket) noexcept {
  const std::lock_guard lock(mutex_);
  if (ticket.phase.load(std::memory_order_relaxed) != TicketPhase::waiting) return false;
  cancel_waiting(ticket.place);
  return true;
}

void Stream::Impl::cancel_waiting(QueuePlaces::iterator place) noexcept {
  place->call.emplace<std::monostate>();
  if (place->callback) {
    if (place->ticket) place->ticket->phase.store(TicketPhase::cancelled, std::memory_order_relaxed);
    cancelled_.splice(cancelled_.end(), waiting_, place);
    wake_.notify_one();
    return;
  }
  if (place->ticket) {
    place->ticket->status = cancelled_status();
    place->ticket->finish();
    place->ticket.reset();
  }
  free_.splice(free_.begin(), waiting_, place);
}

void Stream::Impl::close() noexcept {
  if (is_from_before_fork()) return;  // The thread is not here, and the lock may be held for ever.
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
    while (!waiting_.empty()) cancel_waiting(waiting_.begin());
    wake_.notify_one();
  }
  if (t_stream == this) {
    thread_.detach();
  } else {
    thread_.join();
  }
}

Status Stream::Impl::make(const SubmittedCall& call) const {
  if (const auto* planned = std::get_if<PlannedRun>(&call)) return planned->plan.get().run(planned->args);
  if (const auto* append = std::get_if<KvAppendArgs>(&call)) return kv_append(context, *append);
  return attention_forward(context, std::get<AttentionArgs>(call));
}

void Stream::Impl::serve() noexcept {
  scheduler::leave_signals_to_the_program();
  // Callbacks run in the default state, whatever that of the thread that made the stream was.
  std::fesetenv(FE_DFL_ENV);
  const kernels::FloatState float_state;  // with subnormals kept, which FE_DFL_ENV does not say
  t_stream = this;
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return is_closing_ || !waiting_.empty() || !cancelled_.empty(); });
    if (!cancelled_.empty()) {
      end_first(cancelled_, cancelled_status(), lock);
    } else if (!waiting_.empty()) {
      run_first(lock);
    } else {
      return;
    }
  }
}

void Stream::Impl::run_first(std::unique_lock<std::mutex>& lock) noexcept {
  running_.splice(running_.end(), waiting_, waiting_.begin());
  QueuePlace& place = running_.front();
  if (place.ticket) place.ticket->phase.store(TicketPhase::running, std::memory_order_relaxed);
  lock.unlock();
  Status outcome = make(place.call);
  place.call.emplace<std::monostate>();  // so that the callback may update the plan
  lock.lock();
  end_first(running_, std::move(outcome), lock);
}

void Stream::Impl::end_first(QueuePlaces& list, Status outcome, std::unique_lock<std::mutex>& lock) noexcept {
  StreamCallback callback = std::exchange(list.front().callback, nullptr);
  const std::shared_ptr<Ticket::State> ticket = std::exchange(list.front().ticket, nullptr);
  free_.splice(free_.begin(), list, list.begin());
  lock.unlock();
  const Status& told = ticket ? ticket->status : outcome;
  if (ticket) {
    ticket->status = std::move(outcome);  // a copy could find no memory
    ticket->phase.store(TicketPhase::ending, std::memory_order_relaxed);
  }
  call_back(callback, told);
  if (ticket) ticket->finish();
  lock.lock();
}

}  // namespace kumiko
