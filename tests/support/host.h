// SPDX-License-Identifier: Apache-2.0
// What this machine supports, determined independently of the library under test.
#pragma once

#include <string>
#include <vector>

namespace kumiko::test {

/// Names for ContextOptions::isa that this CPU must accept, best first; the last is always "reference".
std::vector<std::string> host_isas();
/// host_isas() for sweeps of many cases, on an emulated processor and under a sanitizer without "reference":
/// it is the slowest there, has run natively, and its kernels have tests of their own.
std::vector<std::string> swept_isas();
/// The one that a context uses unless told otherwise.
std::string default_isa();
/// Every name ContextOptions::isa accepts.
inline const std::vector<std::string> kAllIsas = {"avx512_bf16", "avx512", "avx2",
                                                  "sve512",      "neon",   "reference"};
inline const std::vector<std::string> kAllExecutors = {"openmp", "tbb", "serial"};

/// Whether an ISA has arithmetic of its own: exponentials by FEXPA, subnormals as 0 (docs/numerics.md).
inline bool own_arithmetic(const std::string& isa) {
  return isa == "sve512";
}

/// CPUs in this thread's affinity mask.
int allowed_cpus();

}  // namespace kumiko::test
