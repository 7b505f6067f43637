// SPDX-License-Identifier: Apache-2.0
// Calls of several threads: side by side with MPI_THREAD_MULTIPLE, refused with a sentence below it. Run with
// each level.
#include <atomic>
#include <cstdlib>
#include <thread>

#include "tests/distributed/memory.h"
#include "tests/distributed/ranks.h"

namespace kumiko::test {
namespace {

int level() {
  int provided = 0;
  MPI_Query_thread(&provided);
  return provided;
}

/// A decode over pages of 512 whose values are all 1.
struct Decode {
  static constexpr std::int64_t kPages = 6, kHeads = 2, kDim = 8;
  Context context;
  std::vector<float> q, k, v, out;
  std::vector<std::int32_t> table{0, 1, 2, 3, 4, 5};
  const std::int32_t length = 3000;

  Decode() : q(kHeads * kDim, 0.5f), k(kPages * 512 * kHeads * kDim, 0.5f), v(k.size(), 1.0f), out(q.size()) {
    ContextOptions options;
    options.num_threads = 1;
    EXPECT_TRUE(Context::create(options, &context).ok());
  }
  Status run(const distributed::Communicator& communicator) {
    out.assign(out.size(), -1.0f);
    AttentionArgs args;
    args.q = ConstTensor::bhsd(q.data(), 1, kHeads, 1, kDim);
    args.k = ConstTensor::bhsd(k.data(), kPages, kHeads, 512, kDim);
    args.v = ConstTensor::bhsd(v.data(), kPages, kHeads, 512, kDim);
    args.out = Tensor::bhsd(out.data(), 1, kHeads, 1, kDim);
    args.seqused_k = &length;
    args.block_table = table.data(), args.max_pages = kPages;
    return distributed::attention_forward(context, communicator, args);
  }
  bool is_right() const {
    for (const float x : out) {
      if (x < 0.999f || x > 1.001f) return false;
    }
    return true;
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
