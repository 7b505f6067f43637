// SPDX-License-Identifier: Apache-2.0
// Fills Topology from hwloc. The only file that includes <hwloc.h>.
#include <hwloc.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <new>
#include <tuple>
#include <unordered_map>
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

constexpr double kMostWordsCompared = 4e9;  // 6300 cores side by side, 7 to 17 s on a Zen 4

constexpr long kFujitsu = 0x46;
constexpr long kA64fx = 0x001;

// From the processor's main ID register as the kernel shows it (implementer in bits 24 to 31, part in bits 4
// to 15): on AArch64 hwloc 2.9 of Debian 12 does not read a processor's name.
bool is_host_a64fx() {
  std::ifstream file("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1");
  long midr = 0;
  return file >> std::hex >> midr && (midr >> 24 & 0xff) == kFujitsu && (midr >> 4 & 0xfff) == kA64fx;
}

// From implementer and part in the topology, which recorded machines have too.
bool is_a64fx(hwloc_topology_t topology) {
  const auto matches = [](hwloc_obj_t object) {
    const char* implementer = hwloc_obj_get_info_by_name(object, "CPUImplementer");
    const char* part = hwloc_obj_get_info_by_name(object, "CPUPart");
    return implementer != nullptr && part != nullptr && std::strtol(implementer, nullptr, 0) == kFujitsu &&
           std::strtol(part, nullptr, 0) == kA64fx;
  };
  // Machines without packages have the processor's description at the root.
  if (matches(hwloc_get_root_obj(topology))) return true;
  hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
  if (package != nullptr && matches(package)) return true;
  return hwloc_topology_is_thissystem(topology) == 1 && is_host_a64fx();
}

// A64FX kernels report no caches at all: 64 KiB of L1D a core, 8 MiB of L2 a CMG (Microarchitecture Manual,
// chapter 9), and the L2 is the last level. Any other machine that hides its caches, as virtual ones do, gets
// the smallest L1D and L2 of a server with AVX2 (Zen 2) and no more than 1 MiB of last-level cache a core, so
// that blocks sized by them fit the real ones.
CacheSizes unreported_caches(bool a64fx, int cores_of_node) {
  if (a64fx) return {64 << 10, (8 << 20) / std::max(cores_of_node, 1), 8 << 20};
  return {32 << 10, 512 << 10, std::int64_t{cores_of_node} << 20};
}

std::string describe_set(hwloc_const_bitmap_t set) {
  char* text = nullptr;
  if (hwloc_bitmap_list_asprintf(&text, set) < 0 || text == nullptr) return "?";
  std::string result = text;
  std::free(text);
  return result;
}

// Whether objects have nodes of memory of which the file has none: hwloc would say so on standard error.
// Files of hwloc 1 may have neither.
bool lacks_nodes(const std::string& file) {
  std::ifstream stream(file);
  const std::string text(std::istreambuf_iterator<char>(stream), {}), set = "nodeset=\"";
  if (text.find("Node\"") != text.npos) return false;  // of type "NUMANode" or, in the oldest files, "Node"
  for (std::size_t at = 0; (at = text.find(set, at)) != text.npos;) {
    at += set.size();
    if (text.find_first_not_of("0x,", at) < text.find('"', at)) return true;  // it is not empty
  }
  return false;
}

// How many words hwloc compares, about, to build a synthetic machine: it looks for an object's place among
// all that lie beside it, by their sets of hardware threads.
double words_compared(const std::string& description) {
  double threads = 1, beside = 0;
  int depth = 0;  // of brackets, which hold attributes
  for (std::size_t i = 0; i < description.size(); ++i) {
    const char c = description[i], before = i > 0 ? description[i - 1] : ' ';
    depth += (c == '(' || c == '[') - (c == ')' || c == ']');
    if (depth > 0 || (before != ' ' && before != ':') || c < '0' || c > '9') continue;
    const auto count = static_cast<double>(std::strtoull(description.c_str() + i, nullptr, 0));
    threads *= count;
    beside += count;
  }
  return threads * threads / 64 * beside;
}

TopologyHandle load(const std::string& description, std::string& error) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) throw std::bad_alloc();  // it only allocates
  TopologyHandle topology(raw);
  // Without this, hwloc's x86 probe would bind the calling thread to every CPU in turn. CPUs that a cpuset
  // forbids are kept in the topology: otherwise a container with 6 cores of a CMG would seem to have the
  // whole L2 to itself.
  constexpr unsigned long flags =
      HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING | HWLOC_TOPOLOGY_FLAG_INCLUDE_DISALLOWED;
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
    if (is_file && lacks_nodes(description)) {
      error = "topology: the file '" + description +
              "' has no NUMANode; expected at least one, as its objects have nodesets";
      return nullptr;
    }
    if (!is_file && words_compared(description) > kMostWordsCompared) {
      error = "topology: '" + description +
              "' has too many objects beside one another; expected groups of fewer, such as 'group:64 "
              "core:64 pu:1'";
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
  // With OMP_PROC_BIND libgomp binds the main thread to its first place when the program starts. The mask
  // that the process was given is then known only as the union of the places.
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

// The parts of a topology that decide domains. Built in one pass over the cores, each with its few ancestors:
// when asked for the cores inside a cache, hwloc looks at every core of the machine.
class Machine {
 public:
  explicit Machine(hwloc_topology_t topology)
      : topology_(topology),
        core_type_(hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0 ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU),
        a64fx_(is_a64fx(topology)) {
    for (hwloc_obj_t core = next_core(nullptr); core != nullptr; core = next_core(core)) {
      for (hwloc_obj_t up = core; up != nullptr; up = up->parent) ++cores_below_[up];
      ++cores_of_node_[node_of(core)];
    }
  }

  /// Domains of the cores with a hardware thread in `usable`.
  std::vector<Domain> collect_domains(hwloc_const_bitmap_t usable) const;

 private:
  hwloc_obj_t next_core(hwloc_obj_t core) const {
    return hwloc_get_next_obj_by_type(topology_, core_type_, core);
  }
  int node_of(hwloc_obj_t core) const;
  hwloc_obj_t last_level_cache(hwloc_obj_t core) const;
  std::int64_t cache_share(hwloc_obj_t core, unsigned depth) const;
  void fill_caches(hwloc_obj_t core, hwloc_obj_t llc, Domain* domain) const;

  hwloc_topology_t topology_;
  hwloc_obj_type_t core_type_;
  bool a64fx_;
  std::unordered_map<hwloc_obj_t, int> cores_below_;
  std::unordered_map<int, int> cores_of_node_;
};

// How well a node suits a core: best with memory this process may use, then with any memory. hwloc also lists
// nodes without memory.
int rank(hwloc_topology_t topology, hwloc_obj_t node) {
  if (node->attr->numanode.local_memory == 0) return 0;
  return hwloc_bitmap_isset(hwloc_topology_get_allowed_nodeset(topology), node->os_index) ? 2 : 1;
}

// Memory-side caches are not among the children: hwloc leaves them out by default.
void find_best_node(hwloc_topology_t topology, hwloc_obj_t first, hwloc_obj_t* best) {
  for (hwloc_obj_t memory = first; memory != nullptr; memory = memory->next_sibling) {
    if (*best == nullptr || rank(topology, memory) > rank(topology, *best)) *best = memory;
  }
}

// The best node next to the core, nearest first.
int Machine::node_of(hwloc_obj_t core) const {
  hwloc_obj_t best = nullptr;
  for (hwloc_obj_t up = core; up != nullptr; up = up->parent) {
    find_best_node(topology_, up->memory_first_child, &best);
    if (best != nullptr && rank(topology_, best) == 2) break;
  }
  return best != nullptr ? static_cast<int>(best->os_index) : 0;
}

// The cache that makes a domain. A private L2 with no larger cache above it does not: such a machine hides
// its L3.
hwloc_obj_t Machine::last_level_cache(hwloc_obj_t core) const {
  hwloc_obj_t last = nullptr;
  for (hwloc_obj_t up = core->parent; up != nullptr; up = up->parent) {
    if (hwloc_obj_type_is_dcache(up->type)) last = up;
  }
  if (last == nullptr) return nullptr;
  return last->attr->cache.depth >= 3 || cores_below_.at(last) > 1 ? last : nullptr;
}

// Size of a core's share of its level-`depth` data cache, 0 if none is reported.
std::int64_t Machine::cache_share(hwloc_obj_t core, unsigned depth) const {
  for (hwloc_obj_t up = core; up != nullptr; up = up->parent) {
    if (!hwloc_obj_type_is_dcache(up->type) || up->attr->cache.depth != depth) continue;
    return static_cast<std::int64_t>(up->attr->cache.size) / cores_below_.at(up);
  }
  return 0;
}

void Machine::fill_caches(hwloc_obj_t core, hwloc_obj_t llc, Domain* domain) const {
  const CacheSizes guess = unreported_caches(a64fx_, cores_of_node_.at(domain->numa_node));
  const std::int64_t l1 = cache_share(core, 1);
  const std::int64_t l2 = cache_share(core, 2);
  domain->l1_bytes_per_core = l1 > 0 ? l1 : guess.l1;
  domain->l2_bytes_per_core = l2 > 0 ? l2 : guess.l2;
  const auto llc_bytes = llc != nullptr ? static_cast<std::int64_t>(llc->attr->cache.size) : 0;
  domain->llc_bytes = llc_bytes > 0 ? llc_bytes : guess.llc;
}

std::vector<Domain> Machine::collect_domains(hwloc_const_bitmap_t usable) const {
  std::map<std::pair<int, hwloc_obj_t>, std::size_t> known;
  std::vector<Domain> domains;
  const Bitmap threads = owned(hwloc_bitmap_alloc());
  for (hwloc_obj_t core = next_core(nullptr); core != nullptr; core = next_core(core)) {
    hwloc_bitmap_and(threads.get(), core->cpuset, usable);
    const int first = hwloc_bitmap_first(threads.get());
    if (first < 0) continue;
    const int node = node_of(core);
    hwloc_obj_t llc = last_level_cache(core);
    const auto [entry, is_new] = known.try_emplace({node, llc}, domains.size());
    if (is_new) {
      domains.emplace_back().numa_node = node;
      fill_caches(core, llc, &domains.back());
    }
    Core& added = domains[entry->second].cores.emplace_back(Core{first});
    int cpu = 0;
    hwloc_bitmap_foreach_begin(cpu, core->cpuset) {
      if (cpu != first) added.others.push_back(cpu);
    }
    hwloc_bitmap_foreach_end();
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
  // hwloc's own environment variables (HWLOC_XMLFILE and others) can replace the host.
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
  result.domains = Machine(topology.get()).collect_domains(usable.get());
  if (result.domains.empty()) {
    error = "topology: '" + result.source + "' has no core that this process may use";
    return std::nullopt;
  }
  return result;
}

}  // namespace kumiko::scheduler
