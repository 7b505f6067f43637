// SPDX-License-Identifier: Apache-2.0
// CPU lists and which worker sits on which core.
#include <algorithm>
#include <charconv>

#include "scheduler/topology.h"

namespace kumiko::scheduler {
namespace {

constexpr int kLastCpu = 65535;

// Reads digits from `*at` on; -1 if there are none or the number exceeds kLastCpu.
int read_cpu(const char** at, const char* end) {
  if (*at == end || **at < '0' || **at > '9') return -1;
  int value = -1;
  const auto [rest, code] = std::from_chars(*at, end, value);
  *at = rest;
  return code == std::errc() && value <= kLastCpu ? value : -1;
}

}  // namespace

std::optional<std::vector<int>> parse_cpu_list(const std::string& text, std::string& error) {
  std::vector<int> cpus;
  const char* at = text.data();
  const char* const end = at + text.size();
  bool ok = true;
  for (;;) {
    const int first = read_cpu(&at, end);
    int last = first;
    if (first >= 0 && at != end && *at == '-') last = read_cpu(&++at, end);
    ok = first >= 0 && last >= first;
    if (!ok) break;
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (at == end) break;
    ok = *at++ == ',';
    if (!ok) break;
  }
  if (!ok) {
    error = "cpus: '" + text + "' is not a list of CPU numbers 0.." + std::to_string(kLastCpu) +
            " and rising ranges such as '0-3,8'";
    return std::nullopt;
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::vector<Seat> seat_workers(const Topology& topology, int num_threads, Bind bind) {
  std::vector<Seat> cores;
  const int num_domains = static_cast<int>(topology.domains.size());
  if (bind == Bind::spread) {
    const std::size_t num_cores = static_cast<std::size_t>(topology.num_cores());
    for (std::size_t row = 0; cores.size() < num_cores; ++row) {
      for (int d = 0; d < num_domains; ++d) {
        const Domain& domain = topology.domains[d];
        if (row < domain.cores.size()) cores.push_back({d, domain.cores[row].os_cpu});
      }
    }
  } else {
    for (int d = 0; d < num_domains; ++d) {
      for (const Core& core : topology.domains[d].cores) cores.push_back({d, core.os_cpu});
    }
  }
  std::vector<Seat> seats;
  if (cores.empty()) return seats;
  seats.reserve(static_cast<std::size_t>(std::max(num_threads, 0)));
  for (int i = 0; i < num_threads; ++i) seats.push_back(cores[static_cast<std::size_t>(i) % cores.size()]);
  return seats;
}

}  // namespace kumiko::scheduler
