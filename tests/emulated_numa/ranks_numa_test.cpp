// SPDX-License-Identifier: Apache-2.0
// Four ranks on a machine of four NUMA nodes, one on each: every thread of a rank has its node's cores alone,
// every page of its own lies there, and rows and steps have the bits of one process.
#include <sched.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>
#include <string>

#include "scheduler/memory.h"
#include "tests/distributed/ranks.h"
#include "tests/distributed/sequence_problem.h"
#include "tests/distributed/sharded_step.h"

// A rank that waits hands its turn to the next core: the emulator, of one thread, would let it spin for 100
// ms first. Open MPI (mpi_yield_when_idle) and the library call this while they wait.
extern "C" int sched_yield() noexcept {
  asm volatile("yield");
  return 0;
}

namespace kumiko::test {
namespace {

constexpr int kRanks = 4, kCoresPerNode = 12;

/// The node whose cores alone a thread of this process may use; -1: of several.
int node_of_thread(pid_t thread) {
  cpu_set_t set;
  if (sched_getaffinity(thread, sizeof set, &set) != 0) return -1;
  for (int node = 0; node < kRanks; ++node) {
    int count = 0;
    for (int core = 0; core < kCoresPerNode; ++core) count += CPU_ISSET(node * kCoresPerNode + core, &set);
    if (count > 0) return count == CPU_COUNT(&set) ? node : -1;
  }
  return -1;
}

/// This process's own pages, those of no file, on each node.
std::array<long, kRanks> pages_by_node() {
  std::array<long, kRanks> pages{};
  std::ifstream maps("/proc/self/numa_maps");
  for (std::string line; std::getline(maps, line);) {
    std::istringstream words(line);
    if (line.find(" file=") != std::string::npos) continue;
    for (std::string word; words >> word;) {
      int node = 0;
      long count = 0;
      if (std::sscanf(word.c_str(), "N%d=%ld", &node, &count) == 2 && node < kRanks)
        pages[static_cast<std::size_t>(node)] += count;
    }
  }
  return pages;
}

/// One for all tests: 48 threads take the emulator long to start.
const Context& context() {
  static const Context made = [] {
    Context created;
    EXPECT_TRUE(Context::create({}, &created).ok());
    return created;
  }();
  return made;
}

struct RanksOfNodes : testing::Test {
  const int node = node_of_thread(0);

  void expect_at_home() {
    int threads = 0;
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      EXPECT_EQ(node_of_thread(std::stoi(task.path().filename())), node) << task.path();
      ++threads;
    }
    EXPECT_GE(threads, kCoresPerNode);
    const std::array<long, kRanks> pages = pages_by_node();
    for (int other = 0; other < kRanks; ++other) {
      const long count = pages[static_cast<std::size_t>(other)];
      if (other == node) {
        EXPECT_GT(count, 100);
      } else {
        EXPECT_EQ(count, 0) << "on node " << other << " of a rank on node " << node;
      }
    }
  }
};

TEST_F(RanksOfNodes, EachHasTheCoresOfOneNode) {
  ASSERT_EQ(world_size(), kRanks);
  ASSERT_GE(node, 0);
  std::array<int, kRanks> nodes{};
  MPI_Allgather(&node, 1, MPI_INT, nodes.data(), 1, MPI_INT, MPI_COMM_WORLD);
  EXPECT_EQ(std::set<int>(nodes.begin(), nodes.end()).size(), nodes.size());
  EXPECT_EQ(context().num_threads(), kCoresPerNode);
}

TEST_F(RanksOfNodes, PrefillHasTheBitsOfOneProcess) {
  SequenceShape shape;
  shape.sequences = {{2200, 2200}};
  shape.is_packed = false;
  shape.q_heads = 2, shape.kv_heads = 1, shape.head_dim = shape.v_head_dim = 8;
  shape.distribution = distributed::Distribution::cyclic;  // each rank has rows and keys
  SequenceProblem problem(shape);
  ASSERT_TRUE(attention_forward(context(), problem.whole()).ok());
  const Status status = distributed::attention_forward(context(), world(), problem.local());
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(problem.is_right());
  expect_at_home();
}

TEST_F(RanksOfNodes, DecodeHasTheBitsOfOneProcess) {
  StepShape shape;
  shape.sequences = {{1, 3000}, {1, 1300}};  // splits on each rank
  shape.q_heads = 2, shape.kv_heads = 1, shape.head_dim = shape.v_head_dim = 8;
  ShardedStep step(shape);
  ASSERT_TRUE(attention_forward(context(), step.whole()).ok());
  const Status status = distributed::attention_forward(context(), world(), step.own());
  ASSERT_TRUE(status.ok()) << status.message();
  EXPECT_TRUE(step.is_right());
  expect_at_home();
}

// What the tests above look at would show memory of another node.
TEST_F(RanksOfNodes, MemoryOfAnotherNodeIsSeen) {
  const int other = (node + 1) % kRanks;
  const scheduler::Arena arena = scheduler::Arena::allocate(1 << 16, other);
  ASSERT_NE(arena.data(), nullptr);
  std::fill_n(arena.data(), arena.size(), std::byte{1});
  EXPECT_GE(pages_by_node()[static_cast<std::size_t>(other)], 16);
}

}  // namespace
}  // namespace kumiko::test
