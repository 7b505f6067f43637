// SPDX-License-Identifier: Apache-2.0
// CPU bandwidth limits of control groups: cpu.max (v2), cpu.cfs_quota_us over cpu.cfs_period_us (v1).
#include <cstdint>
#include <fstream>
#include <sstream>
#include <string>
#include <string_view>

#include "scheduler/topology.h"

namespace kumiko::scheduler {
namespace {

// CPUs that a quota grants per period, both in microseconds, rounded up. 0: no limit, or values that make no
// sense.
int cpus_of(std::int64_t quota, std::int64_t period) {
  if (quota <= 0 || period <= 0) return 0;
  const std::int64_t cpus = quota / period + (quota % period != 0);
  return cpus > 1 << 20 ? 0 : static_cast<int>(cpus);
}

int limit_v2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  std::int64_t period = 0;
  if (!(file >> quota >> period) || quota == "max") return 0;
  std::int64_t value = 0;
  return std::istringstream(quota) >> value ? cpus_of(value, period) : 0;
}

int limit_v1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us");
  std::ifstream period_file(directory + "/cpu.cfs_period_us");
  std::int64_t quota = 0;
  std::int64_t period = 0;
  return quota_file >> quota && period_file >> period ? cpus_of(quota, period) : 0;
}

int smaller(int a, int b) {
  return a == 0 || (b != 0 && b < a) ? b : a;
}

// The smallest limit from `group` up to the hierarchy's root. A container often has its host's path in
// /proc/self/cgroup but its own group mounted as the root, so missing directories on the way are skipped.
int smallest_limit(const std::string& mount, std::string group, int (*limit)(const std::string&)) {
  int result = 0;
  for (;;) {
    // A path that begins with "/.." lies outside the cgroup namespace: only the root is mounted here.
    if (group.starts_with("/..") && (group.size() == 3 || group[3] == '/')) group.clear();
    result = smaller(result, limit(mount + group));
    const std::size_t slash = group.find_last_of('/');
    if (slash == std::string::npos) return result;
    group.resize(slash);
  }
}

bool names_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t comma = controllers.find(',');
    if (controllers.substr(0, comma) == "cpu") return true;
    if (comma == std::string_view::npos) return false;
    controllers.remove_prefix(comma + 1);
  }
  return false;
}

}  // namespace

int cgroup_cpu_limit(const std::string& root) {
  const std::string mounts = root + "/sys/fs/cgroup";
  std::ifstream file(root + "/proc/self/cgroup");
  int result = 0;
  // A line is hierarchy:controllers:path; v2 is "0::path".
  for (std::string line; std::getline(file, line);) {
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string group = line.substr(second + 1);
    while (!group.empty() && group.back() == '/') group.pop_back();
    if (controllers.empty()) {
      result = smaller(result, smallest_limit(mounts, group, limit_v2));
      result = smaller(result, smallest_limit(mounts + "/unified", group, limit_v2));
    } else if (names_cpu(controllers)) {
      result = smaller(result, smallest_limit(mounts + "/" + controllers, group, limit_v1));
      if (controllers != "cpu") result = smaller(result, smallest_limit(mounts + "/cpu", group, limit_v1));
    }
  }
  return result;
}

}  // namespace kumiko::scheduler
