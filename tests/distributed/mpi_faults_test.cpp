// SPDX-License-Identifier: Apache-2.0
// A call of MPI that fails on one rank ends the call on all, with a status that names it, and nobody waits
// for ever. The library's calls come through here, MPI's profiling interface.
#include <array>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>

#include "tests/distributed/paged_decode.h"
#include "tests/distributed/ranks.h"

namespace {

std::atomic<const char*> g_failing{nullptr};  // the call that fails on this rank
std::atomic<int> g_left{0};                   // how many of it succeed before
std::atomic<bool> g_has_failed{false};

bool fails(const char* call) {
  const char* const failing = g_failing.load();
  if (!failing || std::strcmp(failing, call) != 0 || g_left.fetch_sub(1) != 0) return false;
  g_has_failed = true;
  return true;
}

}  // namespace

#define FAIL_OR(name, ...)                 \
  if (fails(#name)) return MPI_ERR_INTERN; \
  return P##name(__VA_ARGS__)

extern "C" {
int MPI_Isend(const void* data, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm,
              MPI_Request* request) {
  FAIL_OR(MPI_Isend, data, count, type, to, tag, comm, request);
}
int MPI_Irecv(void* data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm,
              MPI_Request* request) {
  FAIL_OR(MPI_Irecv, data, count, type, from, tag, comm, request);
}
int MPI_Iallreduce(const void* from, void* to, int count, MPI_Datatype type, MPI_Op op, MPI_Comm comm,
                   MPI_Request* request) {
  FAIL_OR(MPI_Iallreduce, from, to, count, type, op, comm, request);
}
int MPI_Ibcast(void* data, int count, MPI_Datatype type, int root, MPI_Comm comm, MPI_Request* request) {
  FAIL_OR(MPI_Ibcast, data, count, type, root, comm, request);
}
int MPI_Ialltoallv(const void* from, const int* sent, const int* first, MPI_Datatype type, void* to,
                   const int* received, const int* places, MPI_Datatype other, MPI_Comm comm,
                   MPI_Request* request) {
  FAIL_OR(MPI_Ialltoallv, from, sent, first, type, to, received, places, other, comm, request);
}
int MPI_Iallgatherv(const void* from, int count, MPI_Datatype type, void* to, const int* counts,
                    const int* places, MPI_Datatype other, MPI_Comm comm, MPI_Request* request) {
  FAIL_OR(MPI_Iallgatherv, from, count, type, to, counts, places, other, comm, request);
}
int MPI_Type_contiguous(int count, MPI_Datatype of, MPI_Datatype* type) {
  FAIL_OR(MPI_Type_contiguous, count, of, type);
}
int MPI_Type_commit(MPI_Datatype* type) {
  FAIL_OR(MPI_Type_commit, type);
}
int MPI_Type_free(MPI_Datatype* type) {
  FAIL_OR(MPI_Type_free, type);
}
int MPI_Test(MPI_Request* request, int* done, MPI_Status* status) {
  FAIL_OR(MPI_Test, request, done, status);
}
int MPI_Recv(void* data, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Status* status) {
  FAIL_OR(MPI_Recv, data, count, type, from, tag, comm, status);
}
int MPI_Comm_dup(MPI_Comm from, MPI_Comm* to) {
  FAIL_OR(MPI_Comm_dup, from, to);
}
int MPI_Comm_set_errhandler(MPI_Comm comm, MPI_Errhandler handler) {
  FAIL_OR(MPI_Comm_set_errhandler, comm, handler);
}
int MPI_Comm_test_inter(MPI_Comm comm, int* is_inter) {
  FAIL_OR(MPI_Comm_test_inter, comm, is_inter);
}
int MPI_Comm_rank(MPI_Comm comm, int* rank) {
  FAIL_OR(MPI_Comm_rank, comm, rank);
}
int MPI_Comm_size(MPI_Comm comm, int* size) {
  FAIL_OR(MPI_Comm_size, comm, size);
}
int MPI_Iprobe(int from, int tag, MPI_Comm comm, int* found, MPI_Status* status) {
  FAIL_OR(MPI_Iprobe, from, tag, comm, found, status);
}
}

namespace kumiko::test {
namespace {

using distributed::Algorithm;

/// A small problem of one sequence for either kind of call; every row of v is 1, so every output is 1.
struct Problem {
  static constexpr std::int64_t kKeys = 3000, kHeads = 8, kDim = 8;
  Context context;
  std::vector<float> q, k, v, out;
  distributed::SequenceLengths lengths{kKeys, kKeys};

  Problem() {
    ContextOptions options;
    options.num_threads = 1;
    EXPECT_TRUE(Context::create(options, &context).ok());
  }
  Status run_sequences(const distributed::Communicator& communicator, Algorithm algorithm) {
    std::int64_t rows = 0;
    for (const auto& part :
         distributed::rows_of_rank(distributed::Distribution::zigzag, kKeys, world_size(), world_rank()))
      rows += part.end - part.begin;
    const auto count = static_cast<std::size_t>(rows * kHeads * kDim);
    q.assign(count, 0.5f), k = q, v.assign(count, 1.0f), out.assign(count, -1.0f);
    distributed::SequenceParallelArgs args;
    args.local.q = ConstTensor::bhsd(q.data(), 1, kHeads, rows, kDim);
    args.local.k = ConstTensor::bhsd(k.data(), 1, kHeads, rows, kDim);
    args.local.v = ConstTensor::bhsd(v.data(), 1, kHeads, rows, kDim);
    args.local.out = Tensor::bhsd(out.data(), 1, kHeads, rows, kDim);
    args.sequences = {&lengths, 1};
    args.is_automatic = false;
    args.algorithm = algorithm;
    args.block_keys = 512;
    return distributed::attention_forward(context, communicator, args);
  }
  Status run_cache(const distributed::Communicator& communicator) {
    PagedDecode decode(kKeys, kHeads, kDim);
    const Status status = distributed::attention_forward(context, communicator, decode.args());
    out = decode.out;
    return status;
  }
  bool is_right() const { return PagedDecode::all_are_one(out); }
};

/// Fails each of the first calls of `name` on each rank in turn.
template <class Run>
int fail_each(const char* name, int most, Run run) {
  int failures = 0;
  for (int rank = 0; rank < world_size(); ++rank) {
    for (int n = 0; n < most; ++n) {
      MPI_Barrier(MPI_COMM_WORLD);
      distributed::Communicator communicator;
      EXPECT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &communicator).ok());
      MPI_Barrier(MPI_COMM_WORLD);  // a failure would end what a slower rank is still in
      Problem problem;
      g_has_failed = false;
      g_left = n;
      if (rank == world_rank()) g_failing = name;
      const Status status = run(problem, communicator);
      g_failing = nullptr;
      SCOPED_TRACE(::testing::Message() << name << " number " << n << " on rank " << rank);
      if (status.ok()) {
        EXPECT_TRUE(problem.is_right());
        EXPECT_FALSE(g_has_failed);
      } else {
        EXPECT_EQ(status.code(), Code::communication) << status.message();
        EXPECT_NE(status.message().find(std::string(name) + " failed on rank " + std::to_string(rank)),
                  std::string::npos)
            << status.message();
        const Status again = run(problem, communicator);
        EXPECT_EQ(again.code(), Code::communication);
        EXPECT_EQ(again.message().find("the communicator has failed before"), 0u) << again.message();
      }
      int here = g_has_failed ? 1 : 0, anywhere = 0;
      MPI_Allreduce(&here, &anywhere, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
      if (!anywhere) break;
      ++failures;
    }
  }
  return failures;
}

TEST(MpiFaults, OfTravellingBlocks) {
  for (const Algorithm algorithm : {Algorithm::ring, Algorithm::broadcast}) {
    const auto run = [&](Problem& problem, const distributed::Communicator& communicator) {
      return problem.run_sequences(communicator, algorithm);
    };
    for (const char* name : {"MPI_Isend", "MPI_Irecv", "MPI_Iallreduce", "MPI_Test"})
      EXPECT_GT(fail_each(name, 4, run), world_size() > 1 || name[4] != 'I' || name[5] == 'a' ? 0 : -1)
          << name;
  }
}

TEST(MpiFaults, OfHeads) {
  const auto run = [](Problem& problem, const distributed::Communicator& communicator) {
    return problem.run_sequences(communicator, Algorithm::head_parallel);
  };
  for (const char* name : {"MPI_Ialltoallv", "MPI_Iallreduce", "MPI_Type_contiguous", "MPI_Type_commit",
                           "MPI_Type_free", "MPI_Test"})
    EXPECT_GT(fail_each(name, 4, run), 0) << name;
}

TEST(MpiFaults, OfACache) {
  const auto run = [](Problem& problem, const distributed::Communicator& communicator) {
    return problem.run_cache(communicator);
  };
  for (const char* name : {"MPI_Ialltoallv", "MPI_Iallgatherv", "MPI_Iallreduce", "MPI_Type_contiguous",
                           "MPI_Type_commit", "MPI_Type_free", "MPI_Test"})
    EXPECT_GT(fail_each(name, 4, run), 0) << name;
}

// A look for the notices of others, and what the notice of one that failed comes through, happen while a rank
// waits. A rank that cannot read what others say still leaves, with its own error.
TEST(MpiFaults, OfLooksAtOthers) {
  if (world_size() == 1) GTEST_SKIP() << "nobody to wait for";
  for (const char* name : {"MPI_Iprobe", "MPI_Recv"}) {
    MPI_Barrier(MPI_COMM_WORLD);
    distributed::Communicator communicator;
    ASSERT_TRUE(distributed::Communicator::create(MPI_COMM_WORLD, {}, &communicator).ok());
    MPI_Barrier(MPI_COMM_WORLD);
    Problem problem;
    g_has_failed = false;
    g_left = 0;
    const bool is_late = world_rank() == world_size() - 1, is_recv = name[4] == 'R';
    // The last rank comes late, so that all others wait and look; where notices matter, it fails, too.
    if (is_late) std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (is_late && is_recv) g_failing = "MPI_Iallreduce";
    if (world_rank() == 0) g_failing = name;
    const Status status = problem.run_cache(communicator);
    g_failing = nullptr;
    EXPECT_EQ(status.code(), Code::communication) << name << ": " << status.message();
    if (world_rank() == 0) {
      EXPECT_EQ(status.message().find(std::string(name) + " failed on rank 0"), 0u) << status.message();
    }
  }
}

// Each call that makes a communicator. Where it fails on one rank, all get a status and none a communicator;
// MPI_Comm_dup itself is MPI's to handle, so that here it fails everywhere.
TEST(MpiFaults, OfMakingACommunicator) {
  for (const char* name : {"MPI_Comm_dup", "MPI_Comm_set_errhandler", "MPI_Comm_test_inter", "MPI_Comm_rank",
                           "MPI_Comm_size", "MPI_Iallreduce"}) {
    for (int rank = 0; rank < world_size(); ++rank) {
      MPI_Barrier(MPI_COMM_WORLD);
      g_has_failed = false;
      g_left = 0;
      const bool is_mine = rank == world_rank(), is_dup = std::strcmp(name, "MPI_Comm_dup") == 0;
      if (is_mine || is_dup) g_failing = name;
      distributed::Communicator made;
      const Status status = distributed::Communicator::create(MPI_COMM_WORLD, {}, &made);
      g_failing = nullptr;
      EXPECT_EQ(status.code(), Code::communication) << name << ": " << status.message();
      EXPECT_FALSE(made);
      if (is_mine) {
        EXPECT_EQ(status.message().find(std::string(name) + " failed on rank "), 0u);
      }
      if (!is_mine && !is_dup && std::strcmp(name, "MPI_Iallreduce") != 0) {
        EXPECT_NE(status.message().find("could not be set up on another rank"), std::string::npos);
      }
    }
  }
}

// Two groups of ranks cannot agree as one does: each rank finds the error for itself.
TEST(MpiFaults, OfACommunicatorBetweenGroups) {
  if (world_size() == 1) GTEST_SKIP() << "one group";
  MPI_Comm group = MPI_COMM_NULL, between = MPI_COMM_NULL;
  ASSERT_EQ(MPI_Comm_split(MPI_COMM_WORLD, world_rank() % 2, 0, &group), MPI_SUCCESS);
  ASSERT_EQ(MPI_Intercomm_create(group, 0, MPI_COMM_WORLD, 1 - world_rank() % 2, 5, &between), MPI_SUCCESS);
  distributed::Communicator made;
  const Status status = distributed::Communicator::create(between, {}, &made);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_EQ(status.message(), "comm is an intercommunicator; expected an intracommunicator");
  EXPECT_FALSE(made);
  MPI_Comm_free(&between);
  MPI_Comm_free(&group);
}

// The arguments of one rank.
TEST(MpiFaults, OfAMachineThatDiffers) {
  distributed::Machine machine;
  if (world_rank() == world_size() - 1) machine.flops = -1;
  distributed::Communicator made;
  Status status = distributed::Communicator::create(MPI_COMM_WORLD, machine, &made);
  EXPECT_EQ(status.code(), Code::invalid_argument);
  EXPECT_NE(status.message().find("on rank " + std::to_string(world_size() - 1) + ": machine.flops is -1"),
            std::string::npos)
      << status.message();
  EXPECT_TRUE(same_on_all_ranks(status));
  if (world_size() == 1) return;
  machine = {};
  if (world_rank() == 0) machine.link.bandwidth *= 2;
  status = distributed::Communicator::create(MPI_COMM_WORLD, machine, &made);
  EXPECT_EQ(status.message(), "machine.link differs between ranks; expected the same on all");
  EXPECT_TRUE(same_on_all_ranks(status));
  EXPECT_FALSE(made);
}

// Where a rank has an error of its own, its text is broadcast.
TEST(MpiFaults, OfTheTextOfAnError) {
  const auto run = [](Problem& problem, const distributed::Communicator& communicator) {
    problem.lengths.q_len = -1;
    const Status status = problem.run_sequences(communicator, Algorithm::ring);
    problem.lengths.q_len = Problem::kKeys;
    if (status.code() != Code::invalid_argument) return status;
    problem.out.assign(1, 1.0f);
    return Status();
  };
  EXPECT_GT(fail_each("MPI_Ibcast", 4, run), 0);
}

}  // namespace
}  // namespace kumiko::test
