// SPDX-License-Identifier: Apache-2.0
// The end of streams and contexts while tickets are open. Run under ThreadSanitizer too.
#include <gtest/gtest.h>

#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "tests/runtime/stream_support.h"
#include "tests/support/threads.h"

namespace kumiko::test {
namespace {

struct StreamEnd : ::testing::TestWithParam<std::string> {};

TEST_P(StreamEnd, DestroyingCancelsWhatHasNotStartedAndWaitsForTheRest) {
  const Context context = own_context(GetParam(), 2);
  const Problem problem(streamed_case(1));
  std::vector<Code> told;
  Status late;
  Ticket plain, with_callback;
  Gate gate;
  std::optional<Stream> stream = stream_on(context, 4);
  gate.hold(*stream);
  problem.poison_outputs();
  EXPECT_TRUE(stream
                  ->submit(problem.args(), &with_callback,
                           [&](const Status& status) {
                             told.push_back(status.code());
                             late = stream->submit(problem.args());  // within ~Stream
                           })
                  .ok());
  EXPECT_TRUE(
      stream->submit(problem.args(), nullptr, [&](const Status& status) { told.push_back(status.code()); })
          .ok());
  EXPECT_TRUE(stream->submit(plan_on(context, problem), problem.args(), &plain).ok());
  std::thread destroyer([&] { stream->~Stream(); });
  EXPECT_EQ(plain.wait().code(), Code::cancelled) << "the destructor has begun";
  EXPECT_FALSE(gate.ticket.done()) << "the call that runs is waited for";
  EXPECT_FALSE(with_callback.done());
  gate.open();
  destroyer.join();
  new (&*stream) Stream();
  EXPECT_TRUE(gate.ticket.done() && gate.ticket.wait().ok());
  EXPECT_TRUE(with_callback.done());
  EXPECT_EQ(with_callback.wait().code(), Code::cancelled);
  EXPECT_EQ(told, (std::vector<Code>{Code::cancelled, Code::cancelled}));
  EXPECT_TRUE(is_error(late, Code::cancelled, "stream is being destroyed"));
  EXPECT_FALSE(plain.cancel());
  EXPECT_TRUE(problem.outputs_untouched());
}

TEST_P(StreamEnd, TheContextLivesUntilItsStreamEnds) {
  const Problem problem(streamed_case(1));
  std::optional<Context> context = own_context(GetParam(), 2);
  const Outcome want = problem.run(*context);
  problem.poison_outputs();
  Gate gate;
  Ticket planned, once;
  {
    const Stream stream = stream_on(*context);
    gate.hold(stream);
    {
      const Plan prepared = plan_on(*context, problem);
      EXPECT_TRUE(stream.submit(prepared, problem.args(), &planned).ok());
    }
    context.reset();
    gate.open();
    EXPECT_TRUE(planned.wait().ok());
    EXPECT_TRUE(same_bits(problem.outcome(), want));
    problem.poison_outputs();
    EXPECT_TRUE(stream.submit(problem.args(), &once).ok());
    EXPECT_TRUE(once.wait().ok());
    EXPECT_TRUE(same_bits(problem.outcome(), want));
  }
  EXPECT_TRUE(once.done() && once.wait().ok()) << "a ticket outlives its stream";
}

TEST_P(StreamEnd, ACallbackMayDestroyItsStream) {
  const Problem problem{Case{}};
  std::optional<Context> context = own_context(GetParam(), 2);
  std::optional<Stream> stream = stream_on(*context);
  std::latch all_submitted(1);
  Ticket destroyer, plain, with_callback;
  Code told = Code::ok;
  EXPECT_TRUE(stream
                  ->submit(problem.args(), &destroyer,
                           [&](const Status&) {
                             all_submitted.wait();
                             stream.reset();
                             context.reset();
                           })
                  .ok());
  EXPECT_TRUE(stream->submit(problem.args(), &plain).ok());
  EXPECT_TRUE(stream->submit(problem.args(), &with_callback, [&](const Status& s) { told = s.code(); }).ok());
  all_submitted.count_down();
  EXPECT_TRUE(destroyer.wait().ok());
  EXPECT_EQ(plain.wait().code(), Code::cancelled);
  EXPECT_EQ(with_callback.wait().code(), Code::cancelled);
  EXPECT_EQ(told, Code::cancelled);
  EXPECT_FALSE(stream.has_value());
}

// The call may end, and its callback destroy the stream, before submit() has returned.
TEST_P(StreamEnd, ACallbackMayDestroyItsStreamDuringSubmit) {
  const Problem problem{Case{}};
  const Context context = own_context(GetParam(), 2);
  for (int i = 0; i < 100; ++i) {
    std::optional<Stream> stream = stream_on(context);
    Ticket ticket;
    ASSERT_TRUE(stream->submit(problem.args(), &ticket, [&](const Status&) { stream.reset(); }).ok());
    ASSERT_TRUE(ticket.wait().ok());
    ASSERT_FALSE(stream.has_value());
  }
}

// The callback is the last to hold the stream: what it has captured is freed by the stream's thread.
TEST_P(StreamEnd, ACallbackMayOwnItsStream) {
  const Problem problem{Case{}};
  auto stream = std::make_shared<Stream>(stream_on(own_context(GetParam(), 2)));
  const std::weak_ptr<Stream> gone = stream;
  Gate gate;
  gate.hold(*stream);
  Ticket ticket, other;
  const Stream& submit_to = *stream;
  EXPECT_TRUE(submit_to.submit(problem.args(), &ticket, [owner = std::move(stream)](const Status&) {}).ok());
  EXPECT_TRUE(submit_to.submit(problem.args(), &other).ok());
  gate.open();
  EXPECT_TRUE(ticket.wait().ok());
  EXPECT_TRUE(gone.expired()) << "the callback is freed before its ticket is done";
  EXPECT_EQ(other.wait().code(), Code::cancelled);
}

TEST_P(StreamEnd, AssignmentEndsTheOldStream) {
  const Context context = own_context(GetParam(), 2);
  const Problem problem{Case{}};
  Stream stream = stream_on(context), other = stream_on(context);
  Ticket first, second;
  EXPECT_TRUE(stream.submit(problem.args(), &first).ok());
  stream = std::move(other);
  EXPECT_TRUE(first.done());
  EXPECT_FALSE(other);
  EXPECT_TRUE(stream.submit(problem.args(), &second).ok());
  EXPECT_TRUE(second.wait().ok());
  Stream& same = stream;
  stream = std::move(same);
  EXPECT_TRUE(stream);
}

TEST_P(StreamEnd, TicketsMayBeDropped) {
  const Context context = own_context(GetParam(), 2);
  const Problem problem(streamed_case(2)), after{Case{}};
  const Outcome want = problem.run(context);
  problem.poison_outputs();
  const Stream stream = stream_on(context);
  {
    Ticket dropped;
    EXPECT_TRUE(stream.submit(problem.args(), &dropped).ok());
  }
  Ticket last;
  EXPECT_TRUE(stream.submit(after.args(), &last).ok());
  EXPECT_TRUE(last.wait().ok());
  EXPECT_TRUE(same_bits(problem.outcome(), want));
}

INSTANTIATE_TEST_SUITE_P(Executor, StreamEnd, ::testing::ValuesIn(kAllExecutors), StringName());

}  // namespace
}  // namespace kumiko::test
