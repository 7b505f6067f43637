// SPDX-License-Identifier: Apache-2.0
// What kumiko-bench asks the operating system.
#pragma once

#include <string>
#include <vector>

namespace kumiko::tools {

/// The name in /proc/cpuinfo, or the architecture.
std::string processor_name();

/// Bytes that this process may still take: the kernel's available memory, limited by what its control group
/// has left. 0: unknown.
double available_memory();

/// "12.3 GB"; decimal units.
std::string gigabytes(double bytes);

/// The KUMIKO_* variables that are set, NAME=VALUE, sorted: they apply where no option does.
std::vector<std::string> variables();

/// Cores' worth of time that other processes and the hypervisor used since its construction.
class OtherLoad {
 public:
  OtherLoad();
  double cores() const;

 private:
  double begin_, taken_;
};

}  // namespace kumiko::tools
