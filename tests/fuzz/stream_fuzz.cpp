// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/stream_fuzz.h"

#include <kumiko/stream_c.h>

#include <atomic>
#include <deque>
#include <memory>
#include <vector>

#include "tests/fuzz/append_problem.h"
#include "tests/fuzz/attention_problem.h"
#include "tests/fuzz/checks.h"

namespace kumiko::fuzz {
namespace {

constexpr std::int64_t kMostCapacity = 65536;
constexpr int kMostSteps = 24;

/// checked(), with the two codes that only streams have.
kumiko_status checked_on_stream(kumiko_status status, const char* call) {
  if (status != KUMIKO_QUEUE_FULL && status != KUMIKO_CANCELLED) return checked(status, call);
  require(*kumiko_last_error() != '\0', "an error has a sentence", call);
  return status;
}

/// What a stream is asked for: a call, and what it returns and writes alone.
class Work {
 public:
  Work() = default;
  Work(const Work&) = delete;
  virtual ~Work() = default;

  virtual bool has_plan() const { return false; }
  virtual kumiko_status submit(const kumiko_stream* stream, bool is_plan, kumiko_callback callback,
                               void* user_data, kumiko_ticket** ticket) const = 0;
  virtual bool outputs_untouched() const = 0;
  virtual std::vector<unsigned char> outputs() const = 0;
  /// For the report of a failure; may be null.
  virtual const Problem* problem() const { return nullptr; }

  kumiko_status status = KUMIKO_OK;
  std::vector<unsigned char> expected;
  bool has_run = false;
};

class AttentionWork : public Work {
 public:
  AttentionWork(Input& input, const kumiko_context* context, int num_domains, bool has_fault)
      : problem_(input, num_domains, true, true) {
    if (has_fault) problem_.add_fault(input);
    if (!problem_.owns_memory()) return;
    const Reported reported(&problem_);
    problem_.poison_outputs();
    problem_.pass();
    status = checked(problem_.call(context), "attention_forward");
    if (status == KUMIKO_OK) {
      expected = problem_.outputs();
      require(checked(kumiko_plan_create(context, problem_.passed(), &plan_), "plan_create") == KUMIKO_OK,
              "what runs is planned");
    }
    problem_.poison_outputs();
    problem_.pass();
  }
  ~AttentionWork() override { kumiko_plan_destroy(plan_); }

  bool owns_memory() const { return problem_.owns_memory(); }
  bool has_plan() const override { return plan_ != nullptr; }
  kumiko_status submit(const kumiko_stream* stream, bool is_plan, kumiko_callback callback, void* user_data,
                       kumiko_ticket** ticket) const override {
    return is_plan ? kumiko_stream_plan_run(stream, plan_, problem_.passed(), callback, user_data, ticket)
                   : kumiko_stream_attention_forward(stream, problem_.passed(), callback, user_data, ticket);
  }
  bool outputs_untouched() const override { return problem_.outputs_untouched(); }
  std::vector<unsigned char> outputs() const override { return problem_.outputs(); }
  const Problem* problem() const override { return &problem_; }

 private:
  AttentionProblem problem_;
  kumiko_plan* plan_ = nullptr;
};

class AppendWork : public Work {
 public:
  AppendWork(Input& input, const kumiko_context* context, bool has_fault) : problem_(input) {
    if (has_fault) problem_.add_fault(input);
    problem_.poison_outputs();
    status = checked(kumiko_kv_append(context, &problem_.args()), "kv_append");
    require((status != KUMIKO_OK) == problem_.is_refused(), "a sound append runs, and no other");
    expected = problem_.outputs();
    problem_.poison_outputs();
  }
  kumiko_status submit(const kumiko_stream* stream, bool, kumiko_callback callback, void* user_data,
                       kumiko_ticket** ticket) const override {
    // In memory of its own, which ends before the call does.
    const auto passed = std::make_unique<kumiko_kv_append_args>(problem_.args());
    return kumiko_stream_kv_append(stream, passed.get(), callback, user_data, ticket);
  }
  bool outputs_untouched() const override { return problem_.outputs_untouched(); }
  std::vector<unsigned char> outputs() const override { return problem_.outputs(); }

 private:
  AppendProblem problem_;
};

/// A call that the stream has accepted. Its callback counts, on the stream's thread.
struct Submitted {
  Work* work;
  bool has_callback;
  kumiko_ticket* ticket = nullptr;
  std::atomic<int> callbacks{0};
  std::atomic<kumiko_status> outcome{KUMIKO_INTERNAL};

  static void end(void* self, kumiko_status status) {
    auto& call = *static_cast<Submitted*>(self);
    call.outcome = status;
    ++call.callbacks;
  }
};

class StreamCase {
 public:
  StreamCase(Input& input, const kumiko_context* context) : input_(input) {
    kumiko_stream_options options = KUMIKO_STREAM_OPTIONS_INIT;
    options.capacity = input.one_in(4) ? input.number() : 1 + input.below(4);
    const bool is_sane = options.capacity >= 1 && options.capacity <= kMostCapacity;
    const kumiko_status status = checked(kumiko_stream_create(context, &options, &stream_), "stream_create");
    require((stream_ != nullptr) == (status == KUMIKO_OK), "an error leaves the output parameter alone",
            "stream_create");
    require(is_sane == (status == KUMIKO_OK), "a sound stream is made, and no other");
    capacity_ = options.capacity;
    std::int32_t num_domains = 0;
    checked(kumiko_context_num_domains(context, &num_domains), "num_domains");
    const int count = stream_ ? 1 + input.below(3) : 0;
    for (int i = 0; i < count; ++i) {
      auto work = std::make_unique<AttentionWork>(input, context, num_domains, input.one_in(4));
      if (work->owns_memory()) works_.push_back(std::move(work));
    }
    for (int appends = stream_ ? input.below(3) : 0; appends > 0; --appends)
      works_.push_back(std::make_unique<AppendWork>(input, context, input.one_in(4)));
  }

  void run() {
    if (works_.empty()) return end();
    for (int left = input_.below(kMostSteps); left > 0 && stream_; --left) {
      switch (input_.below(8)) {
        case 0:
          if (Submitted* call = any_call()) cancel(*call);
          break;
        case 1:
          if (Submitted* call = any_call()) wait(*call);
          break;
        case 2:
          if (Submitted* call = any_call()) drop(*call);
          break;
        case 3:
          if (input_.one_in(4)) destroy_stream();
          break;
        default:
          submit(*works_[static_cast<std::size_t>(input_.below(static_cast<int>(works_.size())))]);
      }
    }
    end();
  }

 private:
  Submitted* any_call() {
    return calls_.empty() ? nullptr
                          : &calls_[static_cast<std::size_t>(input_.below(static_cast<int>(calls_.size())))];
  }

  void submit(Work& work) {
    Submitted& call = calls_.emplace_back();
    call.work = &work;
    call.has_callback = input_.one_in(2);
    const bool has_ticket = !call.has_callback || input_.one_in(2),
               is_plan = work.has_plan() && input_.one_in(2);
    const kumiko_callback callback = call.has_callback ? Submitted::end : nullptr;
    kumiko_ticket** const ticket = has_ticket ? &call.ticket : nullptr;
    const kumiko_status status = work.submit(stream_, is_plan, callback, &call, ticket);
    checked_on_stream(status, "stream_submit");
    require((call.ticket != nullptr) == (status == KUMIKO_OK && has_ticket),
            "an error leaves the output parameter alone", "stream_submit");
    if (status == KUMIKO_OK) {
      ++accepted_;
      return;
    }
    if (status == KUMIKO_QUEUE_FULL)
      require(accepted_ >= capacity_, "a queue with room takes a call");
    else
      require(status == work.status, "a submission refuses what a call refuses", kumiko_last_error());
    calls_.pop_back();  // Its callback is not called.
  }

  void wait(Submitted& call) {
    if (!call.ticket) return;
    const kumiko_status status = checked_on_stream(kumiko_ticket_wait(call.ticket), "ticket_wait");
    require(status == KUMIKO_CANCELLED || status == call.work->status, "a call ends as it does alone");
    require(status != KUMIKO_CANCELLED || was_cancelled_, "nobody cancelled this");
    require(!call.has_callback || (call.callbacks == 1 && call.outcome == status),
            "the callback has been called once, with the outcome");
    std::int32_t done = 2;
    require(checked(kumiko_ticket_done(call.ticket, &done), "ticket_done") == KUMIKO_OK && done == 1,
            "what was waited for is done");
    call.work->has_run |= status == KUMIKO_OK;
  }

  void cancel(Submitted& call) {
    if (!call.ticket) return;
    std::int32_t cancelled = 2;
    require(checked(kumiko_ticket_cancel(call.ticket, &cancelled), "ticket_cancel") == KUMIKO_OK &&
                (cancelled == 0 || cancelled == 1),
            "a ticket can be cancelled");
    was_cancelled_ |= cancelled == 1;
    if (cancelled)
      require(checked_on_stream(kumiko_ticket_wait(call.ticket), "ticket_wait") == KUMIKO_CANCELLED,
              "what was cancelled is not made");
  }

  static void drop(Submitted& call) {
    kumiko_ticket_destroy(call.ticket);
    call.ticket = nullptr;
  }

  void destroy_stream() {
    kumiko_stream_destroy(stream_);
    stream_ = nullptr;
    was_cancelled_ = true;
  }

  void end() {
    destroy_stream();
    for (Submitted& call : calls_) {
      require(!call.has_callback || call.callbacks == 1, "each callback is called once");
      require(!call.has_callback || call.outcome == KUMIKO_CANCELLED || call.outcome == call.work->status,
              "a callback gets what a call alone returns, or that it was cancelled");
      wait(call);
      call.work->has_run |= call.has_callback && call.outcome == KUMIKO_OK;
      drop(call);
    }
    for (const std::unique_ptr<Work>& work : works_) {
      const Reported reported(work->problem());
      require(work->outputs_untouched() || work->outputs() == work->expected,
              "a stream's call writes what a call alone writes, or nothing");
      require(!work->has_run || work->outputs() == work->expected, "what ended well has written");
    }
  }

  Input& input_;
  kumiko_stream* stream_ = nullptr;
  std::int64_t capacity_ = 0, accepted_ = 0;
  bool was_cancelled_ = false;
  std::vector<std::unique_ptr<Work>> works_;
  std::deque<Submitted> calls_;  // Callbacks have their addresses.
};

}  // namespace

void fuzz_stream(Input& input, const kumiko_context* context) {
  StreamCase(input, context).run();
}

}  // namespace kumiko::fuzz
