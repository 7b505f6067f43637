// SPDX-License-Identifier: Apache-2.0
// The machine as plain data: domains of cores that share a NUMA node and a last-level cache.
// topology_hwloc.cpp fills it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace kumiko::scheduler {

struct Core {
  int os_cpu = 0;  ///< Operating-system number of the first allowed hardware thread of this core.
  std::vector<int> others = {};  ///< Its other hardware threads, allowed or not: callers may run there.
};

/// A CMG on A64FX, an L3 complex on x86.
struct Domain {
  int numa_node = 0;                   ///< OS index of the node the domain's memory comes from.
  std::int64_t l1_bytes_per_core = 0;  ///< First-level data cache.
  std::int64_t l2_bytes_per_core = 0;  ///< A core's share where cores share an L2.
  std::int64_t llc_bytes = 0;          ///< Last-level cache of the domain, all of it.
  std::vector<Core> cores;             ///< In OS order; never empty.
};

struct Topology {
  std::vector<Domain> domains;  ///< Ordered by node, then by first CPU; never empty.
  bool is_host =
      true;  ///< false: a synthetic or recorded machine, threads are not bound and memory is not placed.
  std::string source;  ///< "host", or the KUMIKO_TOPOLOGY value it came from.
  int num_cores() const {
    int n = 0;
    for (const Domain& d : domains) n += static_cast<int>(d.cores.size());
    return n;
  }
};

/// The cores this process may run on: hwloc's view of the host restricted to the affinity mask (cpusets
/// included) and to `cpus` (OS numbers; empty: all). If libgomp has bound the main thread (OMP_PROC_BIND),
/// all of libgomp's places count as allowed. `description` empty: the host; otherwise an hwloc XML file if a
/// file of that name exists, else an hwloc synthetic string, and then the affinity mask is ignored. The
/// calling thread's affinity is never changed, not even for a moment. nullopt and a sentence in `error` when
/// a CPU is not allowed here or the description does not parse.
std::optional<Topology> discover_topology(const std::string& description, const std::vector<int>& cpus,
                                          std::string& error);

/// CPU bandwidth the cgroup (v1 or v2) grants, in CPUs, rounded up; 0: no limit. The smallest limit between
/// the process's own group and the root counts. `root` is the root of the file system, which tests replace.
int cgroup_cpu_limit(const std::string& root = "/");

/// "0-3,8" -> {0,1,2,3,8}, sorted, unique. nullopt and a sentence in `error` when it does not parse or is
/// empty. No blanks, no strides, no descending ranges; CPU numbers end at 65535.
std::optional<std::vector<int>> parse_cpu_list(const std::string& text, std::string& error);

/// Which core each of `num_threads` workers sits on: `close` fills a domain before the next, `spread` takes
/// the domains in turn, one worker each. `none` seats as `close` does, so that every worker has a home
/// domain, but binds no thread. When there are more workers than cores, seating starts again at the first
/// core.
enum class Bind { close, spread, none };
struct Seat {
  int domain = 0;  ///< Index into Topology::domains.
  int os_cpu = 0;
};
std::vector<Seat> seat_workers(const Topology& topology, int num_threads, Bind bind);

}  // namespace kumiko::scheduler
