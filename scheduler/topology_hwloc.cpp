// Fills Topology from hwloc. The only file that includes <hwloc.h>.
#include <hwloc.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <new>
#include <tuple>
#include <utility>

#include "scheduler/topology.h"

namespace kumiko::scheduler {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
struct FreeBitmap {
  void operator()(hwloc_bitmap_t bitmap) const { hwloc_bitmap_free(bitmap); }
};
using TopologyHandle = std::unique_ptr<hwloc_topology, DestroyTopology>;
using Bitmap = std::unique_ptr<hwloc_bitmap_s, FreeBitmap>;

Bitmap owned(hwloc_bitmap_t fresh) {
  if (fresh == nullptr) throw std::bad_alloc();
  return Bitmap(fresh);
}

struct CacheSizes {
  std::int64_t l1;
  std::int64_t l2;
  std::int64_t llc;
};

// A64FX kernels report no caches at all: 64 KiB of L1D a core, 8 MiB of L2 a CMG (Microarchitecture Manual,
// chapter 9), and the L2 is the last level. A virtual machine that hides its caches gets the smallest L1D and
// L2 of a server with AVX2 (Zen 2) and no more than 1 MiB of last level a core, so that blocks sized by them
// fit the real ones.
CacheSizes unreported_caches(hwloc_topology_t topology, int cores_of_node) {
  const char* architecture = hwloc_obj_get_info_by_name(hwloc_get_root_obj(topology), "Architecture");
#if defined(__aarch64__)
  const bool is_arm = architecture == nullptr || std::string(architecture) == "aarch64";
#else
  const bool is_arm = architecture != nullptr && std::string(architecture) == "aarch64";
#endif
  if (is_arm) return {64 << 10, (8 << 20) / std::max(cores_of_node, 1), 8 << 20};
  return {32 << 10, 512 << 10, std::int64_t{cores_of_node} << 20};
}

std::string describe_set(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  if (hwloc_bitmap_list_asprintf(&text, set) < 0 || text == nullptr) return "?";
  std::string result = text;
  std::free(text);
  return result;
}

TopologyHandle load(const std::string& description, std::string& error) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw std::bad_alloc();  // all it does is to allocate
  TopologyHandle topology(raw);
  // hwloc's x86 probe would otherwise walk the calling thread over every CPU.
  constexpr unsigned long flags = HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING;
  if (!description.empty()) {
    std::error_code ignored;
    const bool is_file = std::filesystem::is_regular_file(description, ignored);
    const int rc = is_file ? hwloc_topology_set_xml(raw, description.c_str())
                           : hwloc_topology_set_synthetic(raw, description.c_str());
    if (rc != 0) {
      error = is_file ? "topology: the file '" + description + "' is not hwloc XML"
                      : "topology: '" + description +
                            "' is neither a file nor an hwloc synthetic description such as 'pack:2 l3:1 "
                            "core:4 pu:2'";
      return nullptr;
    }
  }
  if (hwloc_topology_set_flags(raw, flags) != 0 || hwloc_topology_load(raw) != 0) {
    error = description.empty() ? std::string("topology: hwloc cannot read this machine")
                                : "topology: hwloc cannot load '" + description + "'";
    return nullptr;
  }
  return topology;
}

// The affinity mask of the calling thread; grows until the kernel's mask fits (more than 1024 CPUs).
Bitmap affinity_mask() {
  Bitmap mask = owned(hwloc_bitmap_alloc());
  for (int bits = 1024; bits <= 1 << 20; bits *= 2) {
    cpu_set_t* set = CPU_ALLOC(bits);
    if (set == nullptr) break;
    const std::size_t bytes = CPU_ALLOC_SIZE(bits);
    CPU_ZERO_S(bytes, set);
    const bool ok = sched_getaffinity(0, bytes, set) == 0;
    const bool too_small = !ok && errno == EINVAL;
    if (ok) {
      for (int cpu = 0; cpu < bits; ++cpu) {
        if (CPU_ISSET_S(cpu, bytes, set)) hwloc_bitmap_set(mask.get(), static_cast<unsigned>(cpu));
      }
    }
    CPU_FREE(set);
    if (!too_small) break;
  }
  // With OMP_PROC_BIND libgomp binds the main thread to its first place when the program starts, and the mask
  // the process was given lives on only as the union of the places.
  if (omp_get_proc_bind() != omp_proc_bind_false && omp_get_num_places() > 0) {
    const Bitmap places = owned(hwloc_bitmap_alloc());
    std::vector<int> cpus;
    for (int place = 0; place < omp_get_num_places(); ++place) {
      cpus.resize(static_cast<std::size_t>(omp_get_place_num_procs(place)));
      omp_get_place_proc_ids(place, cpus.data());
      for (const int cpu : cpus) hwloc_bitmap_set(places.get(), static_cast<unsigned>(cpu));
    }
    if (hwloc_bitmap_isincluded(mask.get(), places.get())) hwloc_bitmap_copy(mask.get(), places.get());
  }
  return mask;
}

// The node next to the core: the first one with memory of its own, for hwloc lists nodes without any too.
int node_of(hwloc_topology_t topology, hwloc_obj_t core) {
  int first = -1;
  for (hwloc_obj_t node = nullptr;
       (node = hwloc_get_next_obj_by_type(topology, HWLOC_OBJ_NUMANODE, node)) != nullptr;) {
    if (!hwloc_bitmap_isset(core->nodeset, node->os_index)) continue;
    if (node->attr->numanode.local_memory > 0) return static_cast<int>(node->os_index);
    if (first < 0) first = static_cast<int>(node->os_index);
  }
  return std::max(first, 0);
}

int cores_inside(hwloc_topology_t topology, hwloc_const_cpuset_t set) {
  const int cores = hwloc_get_nbobjs_inside_cpuset_by_type(topology, set, HWLOC_OBJ_CORE);
  return cores > 0 ? cores : hwloc_get_nbobjs_inside_cpuset_by_type(topology, set, HWLOC_OBJ_PU);
}

// The cache that makes a domain. A private L2 under nothing larger does not: that is a machine that hides its
// L3.
hwloc_obj_t last_level_cache(hwloc_topology_t topology, hwloc_obj_t core) {
  hwloc_obj_t last = nullptr;
  for (hwloc_obj_t up = core->parent; up != nullptr; up = up->parent) {
    if (hwloc_obj_type_is_dcache(up->type)) last = up;
  }
  if (last == nullptr) return nullptr;
  return last->attr->cache.depth >= 3 || cores_inside(topology, last->cpuset) > 1 ? last : nullptr;
}

// Size of a core's share of its level-`depth` data cache, 0 if none is reported.
std::int64_t cache_share(hwloc_topology_t topology, hwloc_obj_t core, unsigned depth) {
  for (hwloc_obj_t up = core; up != nullptr; up = up->parent) {
    if (!hwloc_obj_type_is_dcache(up->type) || up->attr->cache.depth != depth) continue;
    return static_cast<std::int64_t>(up->attr->cache.size) / std::max(cores_inside(topology, up->cpuset), 1);
  }
  return 0;
}

void fill_caches(hwloc_topology_t topology, hwloc_obj_t core, hwloc_obj_t llc, Domain* domain) {
  hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(topology, static_cast<unsigned>(domain->numa_node));
  const int cores_of_node = node != nullptr ? cores_inside(topology, node->cpuset) : 1;
  const CacheSizes guess = unreported_caches(topology, cores_of_node);
  const std::int64_t l1 = cache_share(topology, core, 1);
  const std::int64_t l2 = cache_share(topology, core, 2);
  domain->l1_bytes_per_core = l1 > 0 ? l1 : guess.l1;
  domain->l2_bytes_per_core = l2 > 0 ? l2 : guess.l2;
  const auto llc_bytes = llc != nullptr ? static_cast<std::int64_t>(llc->attr->cache.size) : 0;
  domain->llc_bytes = llc_bytes > 0 ? llc_bytes : guess.llc;
}

std::vector<Domain> collect_domains(hwloc_topology_t topology, hwloc_const_bitmap_t usable) {
  std::map<std::pair<int, hwloc_obj_t>, std::size_t> known;
  std::vector<Domain> domains;
  const hwloc_obj_type_t type =
      hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
  const Bitmap threads = owned(hwloc_bitmap_alloc());
  for (hwloc_obj_t core = nullptr; (core = hwloc_get_next_obj_by_type(topology, type, core)) != nullptr;) {
    hwloc_bitmap_and(threads.get(), core->cpuset, usable);
    const int first = hwloc_bitmap_first(threads.get());
    if (first < 0) continue;
    const int node = node_of(topology, core);
    hwloc_obj_t llc = last_level_cache(topology, core);
    const auto [entry, is_new] = known.try_emplace({node, llc}, domains.size());
    if (is_new) {
      domains.emplace_back().numa_node = node;
      fill_caches(topology, core, llc, &domains.back());
    }
    domains[entry->second].cores.push_back({first});
  }
  for (Domain& domain : domains) {
    std::sort(domain.cores.begin(), domain.cores.end(),
              [](const Core& a, const Core& b) { return a.os_cpu < b.os_cpu; });
  }
  std::sort(domains.begin(), domains.end(), [](const Domain& a, const Domain& b) {
    return std::tie(a.numa_node, a.cores[0].os_cpu) < std::tie(b.numa_node, b.cores[0].os_cpu);
  });
  return domains;
}

}  // namespace

std::optional<Topology> discover_topology(const std::string& description, const std::vector<int>& cpus,
                                          std::string& error) {
  const TopologyHandle topology = load(description, error);
  if (topology == nullptr) return std::nullopt;
  Topology result;
  // hwloc's own environment (HWLOC_XMLFILE and its kin) can stand in for the host.
  result.is_host = description.empty() && hwloc_topology_is_thissystem(topology.get()) == 1;
  result.source = description.empty() ? "host" : description;

  const Bitmap usable = owned(hwloc_bitmap_dup(hwloc_topology_get_allowed_cpuset(topology.get())));
  if (result.is_host) {
    const Bitmap mask = affinity_mask();
    hwloc_bitmap_and(usable.get(), usable.get(), mask.get());
  }
  if (!cpus.empty()) {
    const Bitmap wanted = owned(hwloc_bitmap_alloc());
    for (const int cpu : cpus) {
      if (cpu < 0 || !hwloc_bitmap_isset(usable.get(), static_cast<unsigned>(cpu))) {
        error = "cpus: CPU " + std::to_string(cpu) + " is not among those that " +
                (result.is_host ? std::string("this process may use") : "'" + result.source + "' has") +
                " (" + describe_set(usable.get()) + ")";
        return std::nullopt;
      }
      hwloc_bitmap_set(wanted.get(), static_cast<unsigned>(cpu));
    }
    hwloc_bitmap_and(usable.get(), usable.get(), wanted.get());
  }
  result.domains = collect_domains(topology.get(), usable.get());
  if (result.domains.empty()) {
    error = "topology: '" + result.source + "' has no core that this process may use";
    return std::nullopt;
  }
  return result;
}

}  // namespace kumiko::scheduler
