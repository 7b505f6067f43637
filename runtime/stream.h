// SPDX-License-Identifier: Apache-2.0
// Asynchronous calls: submit() returns at once, a thread of the stream makes the calls in order.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "attention.h"
#include "kv_append.h"

namespace kumiko {

struct StreamOptions {
  /// Calls that may be open at once: waiting, running, or cancelled with a callback to come. 1..65536. Their
  /// memory, under 1 KB each, is taken by Stream::create.
  std::int64_t capacity = 64;
};

/// Called once by the stream's thread, with the outcome of the call or Code::cancelled, before the ticket is
/// done and before the next call starts. In it the call's place in the queue is free again and its tensors
/// may be freed; it may submit to the same stream, update the plan and destroy the stream. It must not throw:
/// an exception that leaves it is dropped. The thread takes no signals of the process and is in the default
/// floating-point state.
using StreamCallback = std::function<void(const Status&)>;

/// A submitted call. Copies are the same ticket; every method may be called from any number of threads at
/// once. A ticket that is destroyed changes nothing: the call is made. May outlive its stream.
class KUMIKO_API Ticket {
 public:
  Ticket() = default;
  explicit operator bool() const { return state_ != nullptr; }

  /// Sleeps until the call has been made or cancelled and its callback has returned, and returns its outcome;
  /// in the call's own callback, at once. Errors of wait() itself: invalid_argument (an empty ticket; in a
  /// callback of the stream, where a later call's end would never come), unsupported (in a forked child, a
  /// call that had not ended).
  Status wait() const;
  /// Whether wait() would return at once with the outcome, as other threads see it. An empty ticket: false.
  bool done() const;
  /// true: the call had not started and never will, its tensors may be freed, and its outcome is
  /// Code::cancelled. Its callback, if any, is called as soon as the stream's thread has ended the call that
  /// runs; without one the ticket is done at once. false: the call runs, has ended, or was cancelled before.
  bool cancel() const;

  struct State;

 private:
  friend class Stream;
  std::shared_ptr<State> state_;
};

/// A queue of calls and one thread, which makes them in the order of submission, as any other caller of the
/// context would: with the same bits, and beside other streams and callers. Threads of the context do the
/// work; the stream's own sleeps where they are busy, and where there is nothing to do. Every method but
/// moving and destroying may be called from any number of threads at once.
///
/// The stream keeps its context alive. Destroying it cancels the calls that have not started, waits for the
/// one that runs and for all callbacks; its tickets are then done. Calls submitted meanwhile, by callbacks,
/// are refused as Code::cancelled. In a callback of its own the destructor waits for nothing: callbacks of
/// cancelled calls follow. In a forked child a stream of the parent refuses every call.
class KUMIKO_API Stream {
 public:
  Stream() = default;
  Stream(Stream&& other) noexcept = default;
  Stream& operator=(Stream&& other) noexcept;
  ~Stream();

  /// Errors: invalid_argument, unsupported (no thread could be started; in a forked child), out_of_memory.
  /// `*stream` is untouched on error.
  static Status create(const Context& context, const StreamOptions& options, Stream* stream);
  explicit operator bool() const { return impl_ != nullptr; }

  /// Submits Plan::run of a plan of this stream's context, attention_forward or kv_append. The arguments are
  /// checked and copied, and nothing is waited for; an error that a call finds only as it runs is its
  /// outcome. The tensors and arrays that they point to must stay until the call has ended, the arrays
  /// unchanged; tensors may still be written by calls submitted before. Until a plan's submitted runs have
  /// ended its update() is an error. `ticket` may be null. Allocates nothing but the state of a ticket, and
  /// what the checks of pages and slots need. If submit() fails, the callback is not called and the ticket
  /// untouched. Errors: those of the call, invalid_argument (an empty stream or plan, a plan of another
  /// context), queue_full, cancelled (the stream is being destroyed), unsupported (in a forked child).
  Status submit(const Plan& plan, const AttentionArgs& args, Ticket* ticket = nullptr,
                StreamCallback callback = {}) const;
  Status submit(const AttentionArgs& args, Ticket* ticket = nullptr, StreamCallback callback = {}) const;
  Status submit(const KvAppendArgs& args, Ticket* ticket = nullptr, StreamCallback callback = {}) const;

  struct Impl;

 private:
  friend class Ticket;
  std::shared_ptr<Impl> impl_;
};

}  // namespace kumiko
