// SPDX-License-Identifier: Apache-2.0
// Which slot a caller gets.
#include "scheduler/slots.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace kumiko::scheduler {
namespace {

// The slot of a caller bound to `cpu`, on a machine of a domain for each of two CPUs.
int slot_of_caller_on(int cpu, bool is_host, int first_cpu, int second_cpu) {
  Topology topology;
  topology.is_host = is_host;
  topology.domains = {{.cores = {{first_cpu}}}, {.cores = {{second_cpu}}}};
  Slots slots(topology, seat_workers(topology, 2, Bind::close));
  int slot = -1;
  std::thread([&] {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    ASSERT_EQ(sched_setaffinity(0, sizeof only, &only), 0);
    slot = slots.try_claim_nearest();
  }).join();
  return slot;
}

TEST(Slots, ACallersCpuCountsOnThisMachineOnly) {
  const int here = sched_getcpu();
  ASSERT_GE(here, 0);
  EXPECT_EQ(slot_of_caller_on(here, true, here, here + 1), 0);
  EXPECT_EQ(slot_of_caller_on(here, true, here + 1, here), 1);
  EXPECT_EQ(slot_of_caller_on(here, false, here, here + 1), 0);
  EXPECT_EQ(slot_of_caller_on(here, false, here + 1, here), 0) << "the number is another machine's";
}

}  // namespace
}  // namespace kumiko::scheduler
