// SPDX-License-Identifier: Apache-2.0
// Keys that come late: ranks compute later blocks ahead, and every row still has the bits of one machine's
// call. Blocks come through here, MPI's profiling interface, 20 ms after each other.
#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "tests/distributed/ranks.h"
#include "tests/distributed/sequence_problem.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kLeastBytes = 4096;  // what ranks agree on is shorter
constexpr std::chrono::milliseconds kPerBlock{20};

std::map<MPI_Request*, Clock::time_point> g_due;  // of receives under way; one thread calls MPI

// Until then pieces that leave this rank are on their way; those for it come at once.
Clock::time_point g_leaves{};
std::set<MPI_Request> g_leaving;
std::thread::id g_caller;
int g_sleeps = 0;  // without an end while pieces leave

}  // namespace

// A thread that sleeps here looks at MPI when another wakes it, and not before.
void std::condition_variable::wait(std::unique_lock<std::mutex>& lock) {
  if (std::this_thread::get_id() == g_caller) g_sleeps += !g_leaving.empty();
  pthread_cond_wait(native_handle(), lock.mutex()->native_handle());
}

extern "C" {
int MPI_Irecv(void* data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
              MPI_Request* request) {
  if (type == MPI_BYTE && count >= kLeastBytes && g_caller == std::thread::id()) {
    const std::size_t before = g_due.size();
    g_due[request] = Clock::now() + (before + 1) * kPerBlock;
  }
  return PMPI_Irecv(data, count, type, from, tag, comm, request);
}
int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request* request) {
  const int code = PMPI_Isend(data, count, type, to, tag, comm, request);
  if (Clock::now() < g_leaves && count >= kLeastBytes) g_leaving.insert(*request);
  return code;
}
int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
  if (g_leaving.count(*request) > 0) {
    *done = 0;
    if (Clock::now() < g_leaves) return MPI_SUCCESS;
    g_leaving.erase(*request);
  }
  const auto due = g_due.find(request);
  if (due != g_due.end() && Clock::now() < due->second) {
    *done = 0;
    return MPI_SUCCESS;
  }
  const int code = PMPI_Test(request, done, status);
  if (*done && due != g_due.end()) g_due.erase(due);
  return code;
}
}

namespace kumiko::test {
namespace {

using distributed::Algorithm;
using distributed::Distribution;

struct SlowLink : testing::Test {
  Random random{test_seed(98)};
  Context context = [] {
    Context made;
    EXPECT_TRUE(Context::create({}, &made).ok());
    return made;
  }();

  void expect_right(const SequenceShape& shape) {
    expect_bits_of_one_machine(context, shape);
    EXPECT_TRUE(g_due.empty());
  }
};

TEST_F(SlowLink, RowsHaveTheBitsOfOneMachine) {
  for (const Distribution distribution :
       {Distribution::contiguous, Distribution::zigzag, Distribution::cyclic}) {
    for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
      SequenceShape s;
      s.sequences = {{4096, 4096}};
      s.is_packed = false;
      s.distribution = distribution, s.algorithm = algorithm;
      s.is_causal = distribution != Distribution::contiguous;
      s.type = s.out_type = random.pick({DataType::f32, DataType::bf16});
      s.sinks = random.one_in(2);
      s.seed = random.bits();
      ASSERT_NO_FATAL_FAILURE(expect_right(s));
    }
  }
}

// Heads of a block come one after another, in pieces that end with a head or within one, and are computed as
// they come.
TEST_F(SlowLink, HeadsOfABlock) {
  for (const std::int64_t head_dim : {256, 200}) {
    for (const bool has_two_sequences : {false, true}) {
      SequenceShape s;
      s.sequences = {{2100, 2100}};
      if (has_two_sequences) s.sequences.push_back({520, 1100});
      s.is_packed = has_two_sequences;
      s.q_heads = s.kv_heads = 3, s.head_dim = head_dim, s.v_head_dim = 256;
      s.type = s.out_type = DataType::f32;
      s.is_causal = true;
      s.block_keys = has_two_sequences ? 1024 : 512;
      s.seed = random.bits();
      ASSERT_NO_FATAL_FAILURE(expect_right(s));
    }
  }
}

// Several sequences a block, with rows that see few of its keys, and blocks that are too long for it.
TEST_F(SlowLink, SequencesOfOneBlock) {
  for (const std::int64_t block_keys : {0, 512, 1024}) {
    SequenceShape s;
    s.sequences = {{2600, 2600}, {70, 3000}, {1500, 1500}};
    s.window_left = block_keys == 512 ? 700 : -1;
    s.block_keys = block_keys;
    s.seed = random.bits();
    ASSERT_NO_FATAL_FAILURE(expect_right(s));
  }
}

// A rank that has all blocks computes the last one while pieces of those before still leave: it wakes to send
// the next ones. In a second it computes those.
TEST_F(SlowLink, SendsWhileItComputesTheLastBlock) {
  SequenceShape s;
  s.sequences = {
      {1100, 2560}};  // of two ranks the second has splits 1 and 2 of 5, and computes 0 to 3 in pairs
  s.is_packed = s.is_causal = false;
  s.q_heads = s.kv_heads = 1, s.head_dim = s.v_head_dim = 256;  // two pieces a split
  s.seed = random.bits();
  g_caller = std::this_thread::get_id();
  if (world_rank() == world_size() - 1) g_leaves = Clock::now() + std::chrono::seconds(1);
  g_sleeps = 0;
  expect_bits_of_one_machine(context, s);
  g_leaves = {};
  g_caller = {};
  EXPECT_TRUE(g_leaving.empty());
  EXPECT_EQ(g_sleeps, 0);
}

}  // namespace
}  // namespace kumiko::test
