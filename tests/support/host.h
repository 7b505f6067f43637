// What this machine runs, asked independently of the library under test.
#pragma once

#include <string>
#include <vector>

namespace kumiko::test {

/// Names for ContextOptions::isa that this CPU must accept, best first; the last is always "reference".
std::vector<std::string> host_isas();
/// Every name ContextOptions::isa knows.
inline const std::vector<std::string> kAllIsas = {"avx512", "avx2", "reference"};
inline const std::vector<std::string> kAllExecutors = {"openmp", "tbb", "serial"};

/// Whether the processor is an emulated one, each case 100 to 300 times slower: long lists of cases then take
/// every n-th. Said by KUMIKO_TEST_EMULATED=1, which tests/emulated_* set.
bool emulated();

/// CPUs in this thread's affinity mask.
int allowed_cpus();

}  // namespace kumiko::test
