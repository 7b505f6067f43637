// SPDX-License-Identifier: Apache-2.0
// Prints the CPUs of discover_topology()'s host, one a line: what a process started with some environment
// believes. With a CPU as its argument it binds itself to that first.
#include <sched.h>

#include <cstdio>
#include <cstdlib>

#include "scheduler/topology.h"

int main(int argc, char** argv) {
  if (argc > 1) {
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(std::atoi(argv[1]), &only);
    if (sched_setaffinity(0, sizeof only, &only) != 0) return 2;
  }
  std::string error;
  const auto topology = kumiko::scheduler::discover_topology("", {}, error);
  if (!topology) {
    std::fprintf(stderr, "%s\n", error.c_str());
    return 1;
  }
  for (const auto& domain : topology->domains) {
    for (const auto& core : domain.cores) std::printf("%d\n", core.os_cpu);
  }
}
