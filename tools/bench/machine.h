// SPDX-License-Identifier: Apache-2.0
// What kumiko-bench asks of the machine.
#pragma once

#include <string>
#include <vector>

namespace kumiko::tools {

/// As /proc/cpuinfo calls it, or its architecture.
std::string processor_name();

/// Bytes that this process may still take: what the kernel calls available, and what the memory limit of its
/// control group leaves. 0: the system does not say.
double available_memory();

/// "12.3 GB"; decimal units.
std::string gigabytes(double bytes);

/// The KUMIKO_* variables that are set, NAME=VALUE, sorted: they choose where no option does.
std::vector<std::string> variables();

/// Cores' worth of time that other processes, and the hypervisor, took since this was made.
class OtherLoad {
 public:
  OtherLoad();
  double cores() const;

 private:
  double begin_, taken_;
};

}  // namespace kumiko::tools
