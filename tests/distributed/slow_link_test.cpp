// SPDX-License-Identifier: Apache-2.0
// Keys that come late: ranks compute later blocks ahead, and every row still has the bits of one machine's
// call. Blocks come through here, MPI's profiling interface, 20 ms after each other.
#include <chrono>
#include <map>

#include "tests/distributed/ranks.h"
#include "tests/distributed/sequence_problem.h"

namespace {

using Clock = std::chrono::steady_clock;
constexpr int kLeastBytes = 4096;  // what ranks agree on is shorter
constexpr std::chrono::milliseconds kPerBlock{20};

std::map<MPI_Request*, Clock::time_point> g_due;  // of receives under way; one thread calls MPI

}  // namespace

extern "C" {
int MPI_Irecv(void* data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
              MPI_Request* request) {
  if (type == MPI_BYTE && count >= kLeastBytes) {
    const std::size_t before = g_due.size();
    g_due[request] = Clock::now() + (before + 1) * kPerBlock;
  }
  return PMPI_Irecv(data, count, type, from, tag, comm, request);
}
int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
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

}  // namespace
}  // namespace kumiko::test
