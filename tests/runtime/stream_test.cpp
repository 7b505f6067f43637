// SPDX-License-Identifier: Apache-2.0
// Streams: order, results, fullness, cancelling and callbacks. Each test decides by a callback that blocks
// what has started and what has not. Run under ThreadSanitizer too.
#include <gtest/gtest.h>

#include <atomic>
#include <barrier>
#include <cfenv>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "tests/runtime/append_case.h"
#include "tests/runtime/stream_support.h"

namespace kumiko::test {
namespace {

struct Streams : ::testing::TestWithParam<std::string> {
  const Context context_ = own_context(GetParam(), 3);
};

TEST_P(Streams, CallsHaveTheBitsOfACallerAlone) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const Problem problem(streamed_case(seed));
    const Outcome want = problem.run(context_);
    const Plan planned = plan_on(context_, problem);
    const Stream stream = stream_on(context_);
    Ticket ticket;
    problem.poison_outputs();
    EXPECT_TRUE(stream.submit(planned, problem.args(), &ticket).ok());
    EXPECT_TRUE(ticket.wait().ok());
    EXPECT_TRUE(ticket.done());
    EXPECT_TRUE(same_bits(problem.outcome(), want));
    problem.poison_outputs();
    EXPECT_TRUE(stream.submit(problem.args(), &ticket).ok());
    EXPECT_TRUE(ticket.wait().ok());
    EXPECT_TRUE(same_bits(problem.outcome(), want));
    EXPECT_TRUE(problem.borders_intact());
  }
  const AppendCase append{AppendShape{}};
  const std::vector<std::byte> want = append.expected();
  const Stream stream = stream_on(context_);
  Ticket ticket;
  EXPECT_TRUE(stream.submit(append.args(), &ticket).ok());
  EXPECT_TRUE(ticket.wait().ok());
  EXPECT_TRUE(append.outputs() == want);
}

// The output of each call is the query of the next.
TEST_P(Streams, ACallSeesWhatTheCallsBeforeItWrote) {
  constexpr std::size_t kCalls = 20;
  std::vector<std::unique_ptr<Problem>> problems;
  std::vector<AttentionArgs> chain;
  for (std::size_t i = 0; i < kCalls; ++i) {
    Case c = streamed_case(3 * i);
    problems.push_back(std::make_unique<Problem>(c));
    chain.push_back(problems.back()->args());
    if (i == 0) continue;
    const Tensor& before = problems[i - 1]->args().out;
    chain.back().q = ConstTensor{before.data, before.shape, before.stride, before.dtype};
  }
  for (const AttentionArgs& args : chain) ASSERT_TRUE(attention_forward(context_, args).ok());
  std::vector<Outcome> want;
  for (const auto& problem : problems) {
    want.push_back(problem->outcome());
    problem->poison_outputs();
  }
  const Stream stream = stream_on(context_);
  for (std::size_t i = 0; i + 1 < kCalls; ++i) EXPECT_TRUE(stream.submit(chain[i]).ok());
  Ticket last;
  EXPECT_TRUE(stream.submit(chain.back(), &last).ok());
  EXPECT_TRUE(last.wait().ok());
  for (std::size_t i = 0; i < kCalls; ++i) EXPECT_TRUE(same_bits(problems[i]->outcome(), want[i])) << i;
}

TEST_P(Streams, CallbacksComeInTheOrderOfSubmission) {
  const Problem problem{Case{}};
  const Stream stream = stream_on(context_);
  std::vector<int> order;
  Ticket last;
  for (int i = 0; i < 50; ++i)
    EXPECT_TRUE(
        stream.submit(problem.args(), &last, [&order, i](const Status&) { order.push_back(i); }).ok());
  EXPECT_TRUE(last.wait().ok());  // after its callback has returned
  ASSERT_EQ(order.size(), 50u);
  for (int i = 0; i < 50; ++i) EXPECT_EQ(order[static_cast<std::size_t>(i)], i);
}

// Each callback waits until the other stream is in its own.
TEST_P(Streams, StreamsOverlap) {
  const Problem a{Case{}}, b{Case{}};
  const Stream one = stream_on(context_), other = stream_on(context_);
  std::barrier both(2);
  Ticket first, second;
  const auto meet = [&](const Status&) { both.arrive_and_wait(); };
  ASSERT_TRUE(one.submit(a.args(), &first, meet).ok());
  ASSERT_TRUE(other.submit(b.args(), &second, meet).ok());
  EXPECT_TRUE(first.wait().ok());
  EXPECT_TRUE(second.wait().ok());
}

TEST_P(Streams, FullnessIsAStatusAndNothingIsSubmitted) {
  const Problem problem{Case{}};
  Gate gate;
  const Stream stream = stream_on(context_, 3);
  gate.hold(stream);
  Ticket tickets[3], none;
  for (Ticket& ticket : tickets) EXPECT_TRUE(stream.submit(problem.args(), &ticket).ok());
  int called = 0;
  const auto count = [&called](const Status&) { ++called; };
  EXPECT_TRUE(is_error(stream.submit(problem.args(), &none, count), Code::queue_full, "3 open calls"));
  EXPECT_FALSE(none);
  const Plan planned = plan_on(context_, problem);
  EXPECT_EQ(stream.submit(planned, problem.args(), &tickets[0], count).code(), Code::queue_full);
  EXPECT_FALSE(tickets[0].done()) << "its ticket is another one";

  EXPECT_TRUE(tickets[1].cancel());  // makes room at once
  EXPECT_TRUE(stream.submit(planned, problem.args(), &none, count).ok());
  EXPECT_EQ(stream.submit(problem.args()).code(), Code::queue_full);
  EXPECT_EQ(called, 0);
  gate.open();
  EXPECT_TRUE(none.wait().ok());
  EXPECT_TRUE(tickets[0].wait().ok());
  EXPECT_EQ(called, 1);
}

// Until its callback has been called a cancelled call is open, so that callbacks to come are bounded, too.
TEST_P(Streams, CancelledCallsWithCallbacksKeepTheirPlaces) {
  const Problem problem{Case{}};
  Gate gate;
  const Stream stream = stream_on(context_, 2);
  gate.hold(stream);
  std::vector<int> order;
  Ticket kept, cancelled;
  EXPECT_TRUE(stream.submit(problem.args(), &kept, [&](const Status& s) { order.push_back(s.ok()); }).ok());
  EXPECT_TRUE(stream
                  .submit(problem.args(), &cancelled,
                          [&](const Status& s) {
                            EXPECT_TRUE(is_error(s, Code::cancelled, "cancelled"));
                            EXPECT_EQ(cancelled.wait().code(), Code::cancelled) << "its own, at once";
                            EXPECT_TRUE(is_error(kept.wait(), Code::invalid_argument, "has not ended"));
                            order.push_back(-1);
                          })
                  .ok());
  EXPECT_TRUE(cancelled.cancel());
  EXPECT_FALSE(cancelled.cancel());
  EXPECT_FALSE(cancelled.done());
  EXPECT_EQ(stream.submit(problem.args()).code(), Code::queue_full);
  gate.open();
  EXPECT_TRUE(kept.wait().ok());
  EXPECT_EQ(cancelled.wait().code(), Code::cancelled);
  EXPECT_EQ(order, (std::vector<int>{-1, 1}))
      << "the callback of a cancelled call comes before the next call";
}

TEST_P(Streams, ACancelledCallNeverStarts) {
  const Problem problem(streamed_case(1)), other(streamed_case(1));
  const Plan planned = plan_on(context_, problem);
  Gate gate;
  const Stream stream = stream_on(context_);
  gate.hold(stream);
  Ticket first, second, third;
  problem.poison_outputs();
  EXPECT_TRUE(stream.submit(planned, problem.args(), &first).ok());
  EXPECT_TRUE(stream.submit(problem.args(), &second).ok());
  EXPECT_TRUE(stream.submit(planned, other.args(), &third).ok());
  EXPECT_FALSE(first.done());
  EXPECT_TRUE(first.cancel());
  EXPECT_TRUE(first.done()) << "at once, though the stream is busy";
  EXPECT_EQ(first.wait().code(), Code::cancelled);
  EXPECT_TRUE(second.cancel());
  EXPECT_FALSE(second.cancel());
  EXPECT_FALSE(gate.ticket.cancel()) << "it has run";
  gate.open();
  EXPECT_TRUE(third.wait().ok()) << "others go on";
  EXPECT_FALSE(third.cancel());
  EXPECT_TRUE(third.wait().ok());
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST_P(Streams, TheTicketIsDoneAfterItsCallback) {
  const Problem problem{Case{}};
  const Stream stream = stream_on(context_);
  Ticket ticket;
  bool returned = false, was_done = true;
  Status told, own;
  EXPECT_TRUE(stream
                  .submit(problem.args(), &ticket,
                          [&](const Status& status) {
                            told = status;
                            was_done = ticket.done();
                            own = ticket.wait();
                            std::this_thread::yield();
                            returned = true;
                          })
                  .ok());
  EXPECT_TRUE(ticket.wait().ok());
  EXPECT_TRUE(returned && told.ok() && own.ok());
  EXPECT_FALSE(was_done);
}

// With one place: it is free again in the callback, and so are the tensors and the plan.
TEST_P(Streams, ACallbackMaySubmitAndUpdate) {
  Case c = streamed_case(0);
  c.seqused = {200};
  const Problem problem(c);
  std::vector<std::int32_t> lengths{5};
  AttentionArgs args = problem.args();
  args.seqused_k = lengths.data();
  Plan planned;
  ASSERT_TRUE(plan(context_, args, &planned).ok());
  const Stream stream = stream_on(context_, 1);
  std::latch finished(1);
  std::vector<Outcome> found;
  StreamCallback step = [&](const Status& status) {
    EXPECT_TRUE(status.ok()) << status.message();
    found.push_back(problem.outcome());
    if (found.size() == 4) return finished.count_down();
    lengths[0] += 50;
    const Status updated = planned.update(lengths);
    EXPECT_TRUE(updated.ok()) << updated.message();
    const Status next = stream.submit(planned, args, nullptr, step);
    if (!next.ok()) finished.count_down();
    EXPECT_TRUE(next.ok()) << next.message();
  };
  ASSERT_TRUE(stream.submit(planned, args, nullptr, step).ok());
  finished.wait();
  ASSERT_EQ(found.size(), 4u);
  lengths[0] = 5;
  for (const Outcome& got : found) {
    ASSERT_TRUE(attention_forward(context_, args).ok());
    EXPECT_TRUE(same_bits(got, problem.outcome())) << lengths[0];
    lengths[0] += 50;
  }
}

TEST_P(Streams, APlanWithSubmittedRunsIsNotUpdated) {
  Case c = streamed_case(0);
  c.seqused = {20};
  const Problem problem(c);
  Plan planned = plan_on(context_, problem);
  const std::vector<std::int32_t> lengths{40};
  Gate gate;
  const Stream stream = stream_on(context_, 2);
  gate.hold(stream);
  Ticket first, second;
  EXPECT_TRUE(stream.submit(planned, problem.args(), &first).ok());
  EXPECT_TRUE(stream.submit(planned, problem.args(), &second).ok());
  EXPECT_EQ(stream.submit(planned, problem.args()).code(), Code::queue_full);  // not counted
  EXPECT_TRUE(is_error(planned.update(lengths), Code::invalid_argument, "plan has 2 submitted runs"));
  EXPECT_TRUE(first.cancel());
  EXPECT_TRUE(is_error(planned.update(lengths), Code::invalid_argument, "plan has 1 submitted runs"));
  gate.open();
  EXPECT_TRUE(second.wait().ok());
  EXPECT_TRUE(planned.update(lengths).ok());
  EXPECT_TRUE(is_error(stream.submit(planned, problem.args()), Code::invalid_argument, "seqused_k"));
}

// Nothing but update() itself orders it after the run: ThreadSanitizer sees whether it does.
TEST_P(Streams, AnUpdateThatFindsNoRunComesAfterAll) {
  Case c = streamed_case(0);
  c.seqused = {600};
  const Problem problem(c);
  Plan planned = plan_on(context_, problem);
  const Stream stream = stream_on(context_);
  std::vector<std::int32_t> lengths{600};
  AttentionArgs args = problem.args();
  args.seqused_k = lengths.data();
  for (int i = 0; i < 10; ++i) {
    EXPECT_TRUE(stream.submit(planned, args).ok());
    const std::vector<std::int32_t> next{i % 2 == 0 ? 20 : 600};
    while (!planned.update(next).ok()) std::this_thread::yield();
    lengths = next;
  }
}

TEST_P(Streams, AnExceptionOfACallbackIsDropped) {
  const Problem problem{Case{}};
  const Stream stream = stream_on(context_);
  Ticket first, second;
  EXPECT_TRUE(
      stream.submit(problem.args(), &first, [](const Status&) { throw std::runtime_error("a user's"); })
          .ok());
  EXPECT_TRUE(stream.submit(problem.args(), &second, [](const Status&) { throw 7; }).ok());
  EXPECT_TRUE(first.wait().ok());
  EXPECT_TRUE(second.wait().ok());
}

TEST_P(Streams, ManyThreadsWaitForOneTicket) {
  const Problem problem{Case{}};
  Gate gate;
  const Stream stream = stream_on(context_);
  gate.hold(stream);
  Ticket ticket;
  EXPECT_TRUE(stream.submit(problem.args(), &ticket).ok());
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 16; ++t)
    threads.emplace_back([&, copy = ticket] { right += copy.wait().ok() && copy.done(); });
  gate.open();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, 16);
}

TEST_P(Streams, TheStateOfWhoeverMadeTheStreamChangesNothing) {
  const Problem problem(streamed_case(1));
  const Outcome want = problem.run(context_);
  std::fesetround(FE_UPWARD);
  const Stream stream = stream_on(context_);
  std::fesetround(FE_TONEAREST);
  Ticket first, second;
  int rounding = -1;
  problem.poison_outputs();
  EXPECT_TRUE(stream
                  .submit(problem.args(), &first,
                          [&](const Status&) {
                            rounding = std::fegetround();
                            std::fesetround(FE_DOWNWARD);
                          })
                  .ok());
  EXPECT_TRUE(first.wait().ok());
  EXPECT_EQ(rounding, FE_TONEAREST);
  EXPECT_TRUE(same_bits(problem.outcome(), want));
  problem.poison_outputs();
  EXPECT_TRUE(stream.submit(problem.args(), &second).ok());
  EXPECT_TRUE(second.wait().ok());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

INSTANTIATE_TEST_SUITE_P(Executor, Streams, ::testing::ValuesIn(kAllExecutors), StringName());

}  // namespace
}  // namespace kumiko::test
