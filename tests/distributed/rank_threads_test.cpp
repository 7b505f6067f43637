// SPDX-License-Identifier: Apache-2.0
// Calls of several threads: side by side with MPI_THREAD_MULTIPLE, refused with a sentence below it. Run with
// each level.
#include <atomic>
#include <cstdlib>
#include <thread>

#include "tests/distributed/paged_decode.h"
#include "tests/distributed/ranks.h"

namespace kumiko::test {
namespace {

int level() {
  int provided = 0;
  MPI_Query_thread(&provided);
  return provided;
}

struct Decode : PagedDecode {
  Context context;

  Decode() {
    ContextOptions options;
    options.num_threads = 1;
    EXPECT_TRUE(Context::create(options, &context).ok());
  }
  Status run(const distributed::Communicator& communicator) {
    clear();
    return distributed::attention_forward(context, communicator, args());
  }
};

TEST(Threads, OfTheirOwnCommunicators) {
  if (level() != MPI_THREAD_MULTIPLE) GTEST_SKIP() << "of MPI_THREAD_MULTIPLE";
  constexpr int kThreads = 4, kCalls = 50;
  std::vector<distributed::Communicator> communicators(kThreads);
  for (auto& communicator : communicators)
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &communicator).ok());
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Decode decode;
      for (int i = 0; i < kCalls; ++i)
        right += decode.run(communicators[static_cast<std::size_t>(t)]).ok() && decode.is_right();
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right, kThreads * kCalls);
}

/// The status of a call that another thread makes while this one's is in progress: rank 0 comes late.
template <class Call>
Status beside_a_call(const distributed::Communicator& mine, Call call) {
  Status beside;
  std::thread thread;
  if (world_rank() == 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  } else {
    thread = std::thread([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      beside = call();
    });
  }
  Decode decode;
  const Status status = decode.run(mine);
  EXPECT_TRUE(status.ok() && decode.is_right()) << status.message();
  if (thread.joinable()) thread.join();
  return beside;
}

Status call_beside(const distributed::Communicator& mine, const distributed::Communicator& other) {
  return beside_a_call(mine, [&] { return Decode().run(other); });
}

TEST(Threads, OnOneCommunicatorAreRefused) {
  if (level() < MPI_THREAD_SERIALIZED || world_size() == 1)
    GTEST_SKIP() << "needs threads and a rank to wait for";
  const Status beside = call_beside(world(), world());
  if (world_rank() == 0) return;
  EXPECT_EQ(beside.code(), Code::unsupported);
  EXPECT_EQ(
      beside.message(),
      "the communicator is in use by another thread; expected one call at a time, or another communicator");
}

TEST(Threads, SideBySideAreRefusedBelowMultiple) {
  if (level() != MPI_THREAD_SERIALIZED || world_size() == 1) GTEST_SKIP() << "of MPI_THREAD_SERIALIZED";
  distributed::Communicator other;
  ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &other).ok());
  const Status beside = call_beside(world(), other);
  if (world_rank() == 0) return;
  EXPECT_EQ(beside.code(), Code::unsupported);
  EXPECT_EQ(beside.message(),
            "another thread is in a call on another communicator; expected MPI to be initialized with "
            "MPI_THREAD_MULTIPLE for that");
}

// A communicator that another thread makes meanwhile calls MPI, too: its own of one rank, which waits for no
// other.
TEST(Threads, ThatMakeACommunicatorAreRefusedBelowMultiple) {
  if (level() < MPI_THREAD_SERIALIZED || world_size() == 1)
    GTEST_SKIP() << "needs threads and a rank to wait for";
  distributed::Communicator made;
  const Status beside =
      beside_a_call(world(), [&] { return distributed::Communicator::create(MPI_COMM_SELF, {}, &made); });
  if (world_rank() == 0) return;
  EXPECT_EQ(beside.code(), level() == MPI_THREAD_MULTIPLE ? Code::ok : Code::unsupported);
  EXPECT_EQ(static_cast<bool>(made), beside.ok());
  if (!beside.ok()) {
    EXPECT_EQ(beside.message().find("another thread is in a call on another communicator"), 0u)
        << beside.message();
  }
}

TEST(Threads, ThatMayNotCallMpiAreRefused) {
  if (level() >= MPI_THREAD_SERIALIZED) GTEST_SKIP() << "of MPI_THREAD_SINGLE and _FUNNELED";
  Status status;
  std::thread([&] { status = Decode().run(world()); }).join();
  EXPECT_EQ(status.code(), Code::unsupported);
  EXPECT_EQ(status.message(),
            std::string("MPI was initialized with ") +
                (level() == MPI_THREAD_FUNNELED ? "MPI_THREAD_FUNNELED" : "MPI_THREAD_SINGLE") +
                ", which lets only the main thread call; expected MPI_THREAD_SERIALIZED or _MULTIPLE");
  Decode decode;
  EXPECT_TRUE(decode.run(world()).ok() && decode.is_right());
}

}  // namespace
}  // namespace kumiko::test
