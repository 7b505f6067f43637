// SPDX-License-Identifier: Apache-2.0
// 64 threads that submit, wait and cancel on several streams of one context. Run under ThreadSanitizer too.
#include <gtest/gtest.h>

#include <atomic>
#include <deque>
#include <latch>
#include <memory>
#include <thread>
#include <vector>

#include "tests/runtime/stream_support.h"
#include "tests/support/random.h"

namespace kumiko::test {
namespace {

constexpr int kUsers = 64;
const int kSteps = kThinned ? 12 : 60;

struct Counts {
  std::atomic<int> submitted{0}, made{0}, cancelled{0}, wrong{0};
  std::atomic<int> callbacks{0}, wanted_callbacks{0};
};

/// One thread's problems, and the calls it has open.
class User {
 public:
  User(const Context& context, const std::vector<Stream>& streams, int number, Counts& counts)
      : streams_(streams), counts_(counts), random_(static_cast<std::uint64_t>(number)) {
    for (std::uint64_t i = 0; i < 2; ++i) {
      Case c = streamed_case(static_cast<std::uint64_t>(number) + i);
      c.kv_len = number % 2 == 0 ? 30 : 530;
      c.q_len = 1 + number % 4;
      jobs_.push_back(std::make_unique<Job>(c, context));
    }
  }

  void step() {
    Job& job = *jobs_[random_.bits() % jobs_.size()];
    if (job.is_open) return end(job);
    const Stream& stream = streams_[random_.bits() % streams_.size()];
    job.problem.poison_outputs();
    job.calls = 0;
    job.has_callback = random_.one_in(2);
    StreamCallback callback;
    if (job.has_callback) callback = [this, &job](const Status&) { ++job.calls, ++counts_.callbacks; };
    const AttentionArgs& args = job.problem.args();
    const Status status = random_.one_in(2) ? stream.submit(job.plan, args, &job.ticket, std::move(callback))
                                            : stream.submit(args, &job.ticket, std::move(callback));
    if (status.code() == Code::queue_full) return;
    counts_.wrong += !status.ok();
    ++counts_.submitted;
    counts_.wanted_callbacks += job.has_callback;
    job.is_open = true;
    if (random_.one_in(2)) end(job);
  }
  void end_all() {
    for (const auto& job : jobs_) {
      if (job->is_open) end(*job);
    }
  }

 private:
  struct Job {
    Job(const Case& c, const Context& context)
        : problem(c), want(problem.run(context)), plan(plan_on(context, problem)) {}
    Problem problem;
    Outcome want;
    Plan plan;
    Ticket ticket;
    bool is_open = false, has_callback = false;
    std::atomic<int> calls{0};
  };

  void end(Job& job) {
    const bool is_cancelled = random_.one_in(3) && job.ticket.cancel();
    const Status status = job.ticket.wait();
    job.is_open = false;
    bool right = job.ticket.done() && !job.ticket.cancel() && job.calls == (job.has_callback ? 1 : 0);
    if (is_cancelled) {
      right = right && status.code() == Code::cancelled && job.problem.outputs_untouched();
      ++counts_.cancelled;
    } else {
      right = right && status.ok() && same_bits(job.problem.outcome(), job.want);
      ++counts_.made;
    }
    counts_.wrong += !right;
  }

  const std::vector<Stream>& streams_;
  Counts& counts_;
  Random random_;
  std::vector<std::unique_ptr<Job>> jobs_;
};

struct StreamLoad : ::testing::TestWithParam<std::string> {};

TEST_P(StreamLoad, SixtyFourThreadsSubmitWaitAndCancel) {
  for (int threads = 1; threads <= 4; ++threads) {
    const Context context = own_context(GetParam(), threads);
    std::vector<Stream> streams;
    for (int i = 0; i < 4; ++i) streams.push_back(stream_on(context, 8));
    Counts counts;
    std::deque<User> users;
    for (int u = 0; u < kUsers; ++u) users.emplace_back(context, streams, u, counts);
    std::latch start(kUsers);
    std::vector<std::thread> running;
    for (User& user : users) {
      running.emplace_back([&] {
        start.arrive_and_wait();
        for (int step = 0; step < kSteps; ++step) user.step();
        user.end_all();
      });
    }
    for (std::thread& thread : running) thread.join();
    EXPECT_EQ(counts.wrong, 0) << "threads " << threads;
    EXPECT_EQ(counts.made + counts.cancelled, counts.submitted) << "threads " << threads;
    EXPECT_EQ(counts.callbacks, counts.wanted_callbacks) << "threads " << threads;
    EXPECT_GT(counts.made, 0);
    EXPECT_GT(counts.cancelled, 0);
  }
}

// The streams end while calls are open and threads wait for them.
TEST_P(StreamLoad, StreamsEndUnderLoad) {
  const Context context = own_context(GetParam(), 2);
  for (int round = 0; round < 5; ++round) {
    std::vector<std::unique_ptr<Problem>> problems;
    for (int u = 0; u < kUsers; ++u) {
      problems.push_back(std::make_unique<Problem>(streamed_case(static_cast<std::uint64_t>(u))));
      problems.back()->poison_outputs();
    }
    std::vector<Ticket> tickets(kUsers);
    std::atomic<int> callbacks{0}, wrong{0};
    std::vector<std::thread> running;
    {
      const Stream stream = stream_on(context, kUsers);
      std::latch submitted(kUsers);
      for (std::size_t u = 0; u < kUsers; ++u) {
        running.emplace_back([&, u] {
          wrong += !stream.submit(problems[u]->args(), &tickets[u], [&](const Status&) { ++callbacks; }).ok();
          submitted.count_down();
          const Status status = tickets[u].wait();
          if (status.code() == Code::cancelled) wrong += !problems[u]->outputs_untouched();
          if (status.code() != Code::cancelled) wrong += !status.ok();
        });
      }
      submitted.wait();
    }
    for (std::thread& thread : running) thread.join();
    EXPECT_EQ(wrong, 0);
    EXPECT_EQ(callbacks, kUsers);
  }
}

INSTANTIATE_TEST_SUITE_P(Executor, StreamLoad, ::testing::ValuesIn(kAllExecutors), StringName());

}  // namespace
}  // namespace kumiko::test
