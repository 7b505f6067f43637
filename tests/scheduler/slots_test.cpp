// SPDX-License-Identifier: Apache-2.0
// Which slot a caller gets.
#include "scheduler/slots.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <thread>

namespace kumiko::scheduler {
namespace {

// The first `claims` slots that a caller bound to `cpu` gets; the last of them.
int slot_of_caller_on(int cpu, const Topology& topology, int threads, int claims = 1) {
  Slots slots(topology, seat_workers(topology, threads, Bind::close));
  int slot = -1;
  std::thread([&] {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(cpu, &only);
    ASSERT_EQ(sched_setaffinity(0, sizeof only, &only), 0);
    for (int i = 0; i < claims; ++i) slot = slots.try_claim_nearest();
  }).join();
  return slot;
}

// A machine of a domain for each of two CPUs.
int slot_of_caller_on(int cpu, bool is_host, int first_cpu, int second_cpu) {
  Topology topology;
  topology.is_host = is_host;
  topology.domains = {{.cores = {{first_cpu}}}, {.cores = {{second_cpu}}}};
  return slot_of_caller_on(cpu, topology, 2);
}

TEST(Slots, ACallersCpuCountsOnThisMachineOnly) {
  const int here = sched_getcpu();
  ASSERT_GE(here, 0);
  EXPECT_EQ(slot_of_caller_on(here, true, here, here + 1), 0);
  EXPECT_EQ(slot_of_caller_on(here, true, here + 1, here), 1);
  EXPECT_EQ(slot_of_caller_on(here, false, here, here + 1), 0);
  EXPECT_EQ(slot_of_caller_on(here, false, here + 1, here), 0) << "the number is another machine's";
}

TEST(Slots, AnotherHardwareThreadOfACoreIsTheCore) {
  const int here = sched_getcpu();
  ASSERT_GE(here, 0);
  Topology topology;
  topology.domains = {{.cores = {{here + 1, {here + 2}}, {here + 3, {here + 4}}}},
                      {.cores = {{here + 5, {here + 6}}, {here + 7, {here + 8, here}}}}};
  EXPECT_EQ(slot_of_caller_on(here, topology, 4), 3);
  EXPECT_EQ(slot_of_caller_on(here, topology, 4, 2), 2) << "a core of its domain next";
  EXPECT_EQ(slot_of_caller_on(here, topology, 4, 3), 0);
}

TEST(Slots, ACallerOnACoreWithoutASeatTakesOneOfItsDomain) {
  const int here = sched_getcpu();
  ASSERT_GE(here, 0);
  Topology topology;
  topology.domains = {{.cores = {{here + 1}, {here + 2}}}, {.cores = {{here + 3}, {here + 4}, {here}}}};
  EXPECT_EQ(slot_of_caller_on(here, topology, 4), 2);
  EXPECT_EQ(slot_of_caller_on(here, topology, 2), 0) << "its domain has no seat";
}

}  // namespace
}  // namespace kumiko::scheduler
