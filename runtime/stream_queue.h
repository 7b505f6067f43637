// SPDX-License-Identifier: Apache-2.0
// The implementation of streams and tickets: a queue of calls, and the thread that makes them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#include <variant>

#include "runtime/context.h"
#include "runtime/plan.h"
#include "runtime/stream.h"

namespace kumiko {

/// A plan whose run is submitted and has not ended.
class SubmittedPlan {
 public:
  explicit SubmittedPlan(const Plan& plan) : plan_(plan) {
    impl_of(plan_)->submitted.fetch_add(1, std::memory_order_relaxed);
  }
  SubmittedPlan(SubmittedPlan&&) noexcept = default;
  SubmittedPlan& operator=(SubmittedPlan&& other) noexcept {
    std::swap(plan_, other.plan_);
    return *this;
  }
  ~SubmittedPlan() {
    // release: an update() that finds none comes after what the runs read.
    if (plan_) impl_of(plan_)->submitted.fetch_sub(1, std::memory_order_release);
  }
  const Plan& get() const { return plan_; }

 private:
  Plan plan_;
};

struct PlannedRun {
  SubmittedPlan plan;
  AttentionArgs args;
};
using SubmittedCall = std::variant<std::monostate, PlannedRun, AttentionArgs, KvAppendArgs>;

/// A place in the queue and the call that has it. Places move from list to list, so that no call allocates.
struct QueuePlace {
  SubmittedCall call;
  StreamCallback callback;
  std::shared_ptr<Ticket::State> ticket;
};
using QueuePlaces = std::list<QueuePlace>;

/// Written by whoever holds the stream's mutex, from `running` on by the stream's thread alone.
enum class TicketPhase : int {
  waiting,
  cancelled,  ///< Its callback is still to come.
  running,
  ending,  ///< The status is known, and the callback is being called.
  done
};

struct [[gnu::visibility("hidden")]] Ticket::State {
  explicit State(std::weak_ptr<Stream::Impl> of) : stream(std::move(of)) {}
  Status wait() const;
  void finish() noexcept;

  std::atomic<TicketPhase> phase{TicketPhase::waiting};
  Status status;                             ///< From `ending` on.
  const std::weak_ptr<Stream::Impl> stream;  ///< Gone only if done.
  QueuePlaces::iterator place;               ///< While waiting.
};

struct [[gnu::visibility("hidden")]] Stream::Impl : std::enable_shared_from_this<Stream::Impl> {
  Impl(const Context& on, std::int64_t capacity)
      : context(on), capacity_(capacity), free_(static_cast<std::size_t>(capacity)) {}

  /// Errors: unsupported.
  Status start();
  /// Cancels what has not started and waits for the rest, unless this is the stream's own thread.
  void close() noexcept;
  Status submit(SubmittedCall call, Ticket * ticket, StreamCallback callback);
  bool cancel(Ticket::State & ticket) noexcept;
  bool is_from_before_fork() const {
    return impl_of(context)->is_from_before_fork();
  }

  const Context context;

 private:
  void serve() noexcept;
  void run_first(std::unique_lock<std::mutex> & lock) noexcept;
  /// Ends the first call of `list`, which frees its place. The lock is released meanwhile.
  void end_first(QueuePlaces & list, Status outcome, std::unique_lock<std::mutex> & lock) noexcept;
  void cancel_waiting(QueuePlaces::iterator place) noexcept;
  Status make(const SubmittedCall& call) const;

  const std::int64_t capacity_;
  std::mutex mutex_;  // held while places change lists, never while a call or a callback runs
  std::condition_variable wake_;
  QueuePlaces free_, waiting_, running_, cancelled_;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace kumiko
