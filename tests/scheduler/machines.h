// SPDX-License-Identifier: Apache-2.0
// Machines the scheduler's tests plan for.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "scheduler/topology.h"

namespace kumiko::test {

inline scheduler::Topology machine(const std::string& description, const std::vector<int>& cpus = {}) {
  std::string error;
  auto topology = scheduler::discover_topology(description, cpus, error);
  EXPECT_TRUE(topology) << error;
  return topology.value_or(scheduler::Topology{});
}

inline std::vector<int> cpus_of(const scheduler::Domain& domain) {
  std::vector<int> cpus;
  for (const scheduler::Core& core : domain.cores) cpus.push_back(core.os_cpu);
  return cpus;
}

inline std::vector<int> cpus_of(const scheduler::Topology& topology) {
  std::vector<int> cpus;
  for (const scheduler::Domain& domain : topology.domains) {
    const std::vector<int> more = cpus_of(domain);
    cpus.insert(cpus.end(), more.begin(), more.end());
  }
  return cpus;
}

}  // namespace kumiko::test
