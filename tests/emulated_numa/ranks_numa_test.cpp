// SPDX-License-Identifier: Apache-2.0
// Four ranks on a machine of four NUMA nodes, one on each: whose cores each has. That rows and steps have the
// bits of one process is checked by the tests of tests/distributed that are linked with this one.
#include <sched.h>

#include <array>

#include "tests/distributed/ranks.h"

namespace kumiko::test {
namespace {

constexpr int kRanks = 4, kCoresPerNode = 12;

TEST(RanksOfNodes, EachHasTheCoresOfOneNode) {
  ASSERT_EQ(world_size(), kRanks);
  cpu_set_t set;
  ASSERT_EQ(sched_getaffinity(0, sizeof set, &set), 0);
  ASSERT_EQ(CPU_COUNT(&set), kCoresPerNode);
  int node = -1;
  for (int cpu = 0; cpu < kRanks * kCoresPerNode; ++cpu) {
    if (!CPU_ISSET(cpu, &set)) continue;
    if (node < 0) node = cpu / kCoresPerNode;
    EXPECT_EQ(cpu / kCoresPerNode, node);
  }
  std::array<int, kRanks> nodes{};
  MPI_Allgather(&node, 1, MPI_INT, nodes.data(), 1, MPI_INT, MPI_COMM_WORLD);
  for (int rank = 0; rank < kRanks; ++rank)
    for (int other = 0; other < rank; ++other) EXPECT_NE(nodes[rank], nodes[other]);
  Context context;
  ASSERT_TRUE(Context::create({}, &context).ok());
  EXPECT_EQ(context.num_threads(), kCoresPerNode);
}

}  // namespace
}  // namespace kumiko::test
