// Prints the CPUs of discover_topology()'s host, one a line: what a process started with some environment
// believes.
#include <cstdio>

#include "scheduler/topology.h"

int main() {
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
