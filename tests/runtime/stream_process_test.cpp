// SPDX-License-Identifier: Apache-2.0
// Streams and their process: forked children, threads that cannot be had, sleep, signals, allocations.
#include <gtest/gtest.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <optional>
#include <vector>

#include "tests/runtime/stream_support.h"
#include "tests/scheduler/deny_syscalls.h"
#include "tests/support/alloc_counter.h"
#include "tests/support/threads.h"

namespace kumiko::test {
namespace {

struct StreamProcess : ::testing::TestWithParam<std::string> {};

TEST_P(StreamProcess, AForkedChildIsRefusedAndMayDestroyEverything) {
  std::optional<Context> context = own_context(GetParam(), 2);
  const Problem problem(streamed_case(1));
  std::optional<Plan> planned = plan_on(*context, problem);
  std::optional<Ticket> before(std::in_place), open(std::in_place), with_callback(std::in_place);
  int called = 0;
  Gate gate;
  std::optional<Stream> stream = stream_on(*context);
  EXPECT_TRUE(stream->submit(problem.args(), &*before).ok());
  EXPECT_TRUE(before->wait().ok());
  gate.hold(*stream);
  EXPECT_TRUE(stream->submit(problem.args(), &*open).ok());
  EXPECT_TRUE(
      stream->submit(*planned, problem.args(), &*with_callback, [&](const Status&) { ++called; }).ok());
  const auto child = in_child([&] {
    const auto is_refused = [](const Status& status) {
      return status.code() == Code::unsupported && status.message().find("fork") != std::string::npos;
    };
    Stream own;
    if (!is_refused(Stream::create(*context, {}, &own)) || own) return 2;
    if (!is_refused(stream->submit(problem.args()))) return 3;
    if (!is_refused(stream->submit(*planned, problem.args()))) return 4;
    if (!is_refused(open->wait()) || !is_refused(gate.ticket.wait())) return 5;
    if (open->done() || open->cancel()) return 6;
    if (!before->done() || !before->wait().ok() || before->cancel()) return 7;
    stream.reset();
    if (open->done() || !is_refused(open->wait())) return 9;
    context.reset();
    planned.reset();
    before.reset(), open.reset(), with_callback.reset();
    return called == 0 ? 0 : 8;
  });
  EXPECT_EQ(child.status, 0);
  EXPECT_EQ(child.output, "");
  gate.open();
  EXPECT_TRUE(open->wait().ok()) << "the parent goes on";
  EXPECT_TRUE(with_callback->wait().ok());
  EXPECT_EQ(called, 1);
}

TEST_P(StreamProcess, AnIdleStreamSleeps) {
  const Context context = own_context(GetParam(), 2);
  const Problem problem(streamed_case(1));
  const Stream stream = stream_on(context);
  EXPECT_TRUE(all_others_come_to_rest());
  Ticket ticket;
  EXPECT_TRUE(stream.submit(problem.args(), &ticket).ok());
  EXPECT_TRUE(ticket.wait().ok());
  EXPECT_TRUE(all_others_come_to_rest());
}

TEST_P(StreamProcess, TheStreamsThreadTakesNoSignals) {
  const Context context = own_context(GetParam(), 2);
  const Problem problem{Case{}};
  const Stream stream = stream_on(context);
  Ticket ticket;
  sigset_t mask;
  sigemptyset(&mask);
  EXPECT_TRUE(
      stream
          .submit(problem.args(), &ticket, [&](const Status&) { pthread_sigmask(SIG_BLOCK, nullptr, &mask); })
          .ok());
  EXPECT_TRUE(ticket.wait().ok());
  for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGALRM}) EXPECT_EQ(sigismember(&mask, number), 1);
  for (const int number : {SIGSEGV, SIGFPE, SIGPROF}) EXPECT_EQ(sigismember(&mask, number), 0);
}

INSTANTIATE_TEST_SUITE_P(Executor, StreamProcess, ::testing::ValuesIn(kAllExecutors), StringName());

// Not with oneTBB, which allocates for its invitations and cannot be had in the child of a process that used
// it.
struct StreamProcessWithoutTbb : StreamProcess {};

TEST_P(StreamProcessWithoutTbb, AChildMakesStreamsOfItsOwn) {
  const Context parents = own_context(GetParam(), 2);
  const Stream parents_stream = stream_on(parents);
  const Problem problem(streamed_case(2));
  const Outcome want = problem.run(parents);
  const auto child = in_child([&] {
    const Context context = own_context(GetParam(), 2);
    const Stream stream = stream_on(context);
    Ticket ticket;
    problem.poison_outputs();
    if (!stream.submit(problem.args(), &ticket).ok() || !ticket.wait().ok()) return 2;
    return same_bits(problem.outcome(), want) ? 0 : 3;
  });
  EXPECT_EQ(child.status, 0) << child.output;
}

TEST_P(StreamProcessWithoutTbb, APlannedRunAllocatesItsTicketAlone) {
  const Context context = own_context(GetParam(), 2);
  const Problem problem(streamed_case(1));
  const Plan planned = plan_on(context, problem);
  const Stream stream = stream_on(context, 4);
  std::atomic<int> called{0};
  const auto run = [&](Ticket* ticket) {
    const int before = called;
    const bool ok = stream
                        .submit(planned, problem.args(), ticket,
                                [&called](const Status& status) {
                                  called += status.ok() ? 1 : 1000;
                                  called.notify_all();
                                })
                        .ok();
    called.wait(before);
    return ok && called == before + 1 && (!ticket || ticket->wait().ok());
  };
  bool ok = run(nullptr);
  std::int64_t without = 0, with = 0;
  {
    const AllocationCount count;
    for (int i = 0; i < 20; ++i) ok = run(nullptr) && ok;
    without = count.calls();
  }
  {
    const AllocationCount count;
    for (int i = 0; i < 20; ++i) {
      Ticket ticket;
      ok = run(&ticket) && ok;
    }
    with = count.calls();
  }
  EXPECT_TRUE(ok);
  EXPECT_EQ(without, 0);
  EXPECT_EQ(with, 20);
}

INSTANTIATE_TEST_SUITE_P(Executor, StreamProcessWithoutTbb, ::testing::Values("openmp", "serial"),
                         StringName());

TEST(StreamThreads, NoneIsLeft) {
  ASSERT_TRUE(all_others_come_to_rest());
  const int before = other_threads().count;
  const Problem problem{Case{}};
  {
    const Context context = own_context("serial", 1);
    std::vector<Stream> streams;
    for (int i = 0; i < 4; ++i) streams.push_back(stream_on(context));
    EXPECT_EQ(other_threads().count, before + 4);
    for (const Stream& stream : streams) EXPECT_TRUE(stream.submit(problem.args()).ok());
  }
  // A joined thread may still be among the kernel's for a moment.
  EXPECT_TRUE(comes_to_rest([&](const OtherThreads& others) { return others.count == before; },
                            std::chrono::seconds(10)));
}

TEST(StreamThreads, OneThatCannotBeHadIsAnError) {
  const Context context = own_context("serial", 1);
  const auto child = in_child([] {
    const Context own = own_context("serial", 1);
    if (!deny_syscalls({SYS_clone, SYS_clone3}, EAGAIN)) return 2;
    Stream stream;
    const Status status = Stream::create(own, {}, &stream);
    if (status.code() != Code::unsupported || stream) return 3;
    return status.message().find("stream has no thread") == std::string::npos ? 4 : 0;
  });
  EXPECT_EQ(child.status, 0) << child.output;
}

}  // namespace
}  // namespace kumiko::test
