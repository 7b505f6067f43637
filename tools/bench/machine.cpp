// SPDX-License-Identifier: Apache-2.0
#include "tools/bench/machine.h"

#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "bench/machine_peak.h"

namespace kumiko::tools {
namespace {

// The number in a file that holds nothing else. -1: there is none, or a word such as "max" for no limit.
double number_in(const std::string& file) {
  double value = -1;
  std::ifstream stream(file);
  return stream >> value ? value : -1;
}

// The bytes that a control group's limit leaves, -1 without a limit. Cached file pages count as free, since
// they can be dropped.
double left_in_group(const std::string& folder, const char* limit, const char* usage) {
  const double most = number_in(folder + limit), used = number_in(folder + usage);
  if (most < 0 || used < 0) return -1;
  double files = 0, value = 0;
  std::ifstream stat(folder + "memory.stat");
  for (std::string name; stat >> name >> value;) {
    if (name == "inactive_file") files = value;
  }
  return std::max(0.0, most - used + files);
}

// CPU seconds used by other processes and the hypervisor on all cores.
double taken_by_others() {
  std::ifstream stat("/proc/stat");
  std::string cpu;
  double user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0;
  if (!(stat >> cpu >> user >> nice >> system >> idle >> iowait >> irq >> softirq >> steal)) return 0;
  return (user + nice + system + irq + softirq + steal) / static_cast<double>(sysconf(_SC_CLK_TCK)) -
         bench::seconds_on(bench::Clock::cpu);
}

}  // namespace

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const std::size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  utsname system{};
  uname(&system);
  return system.machine;
}

double available_memory() {
  double least = 0;
  std::ifstream file("/proc/meminfo");
  for (std::string line; std::getline(file, line);) {
    double kib = 0;
    if (std::sscanf(line.c_str(), "MemAvailable: %lf", &kib) == 1) least = kib * 1024;
  }
  for (const double left :
       {left_in_group("/sys/fs/cgroup/", "memory.max", "memory.current"),
        left_in_group("/sys/fs/cgroup/memory/", "memory.limit_in_bytes", "memory.usage_in_bytes")}) {
    if (left >= 0 && (least == 0 || left < least)) least = left;
  }
  return least;
}

std::string gigabytes(double bytes) {
  char text[48];
  if (bytes >= 1e9)
    std::snprintf(text, sizeof text, bytes >= 1e15 ? "%.3g GB" : "%.1f GB", bytes * 1e-9);
  else if (bytes >= 1e6)
    std::snprintf(text, sizeof text, "%.1f MB", bytes * 1e-6);
  else if (bytes >= 1e3)
    std::snprintf(text, sizeof text, "%.1f kB", bytes * 1e-3);
  else
    std::snprintf(text, sizeof text, "%.0f bytes", bytes);
  return text;
}

std::vector<std::string> variables() {
  std::vector<std::string> found;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    if (std::strncmp(*entry, "KUMIKO_", 7) == 0) found.emplace_back(*entry);
  }
  std::sort(found.begin(), found.end());
  return found;
}

OtherLoad::OtherLoad() : begin_(bench::now()), taken_(taken_by_others()) {}

double OtherLoad::cores() const {
  const double seconds = bench::now() - begin_;
  return seconds > 0 ? std::max(0.0, (taken_by_others() - taken_) / seconds) : 0;
}

}  // namespace kumiko::tools
