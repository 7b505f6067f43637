// SPDX-License-Identifier: Apache-2.0
// Apart from host_isas(), which the linker replaces for tests/vdpbf16ps_replaced: in one file they would call
// the one beside them.
#include <fstream>
#include <iterator>
#include <regex>

#include "tests/support/host.h"
#include "tests/support/random.h"

namespace kumiko::test {

std::string default_isa() {
  // Products of bf16 pairs are slow on Intel's Sapphire Rapids and its successors.
  std::ifstream in("/proc/cpuinfo");
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  const std::regex slow_pairs(
      "vendor_id\\s*: GenuineIntel\ncpu family\\s*: 6\nmodel\\s*: (143|173|174|207)\n");
  const std::vector<std::string> isas = host_isas();
  return isas.front() == "avx512_bf16" && std::regex_search(text, slow_pairs) ? isas[1] : isas.front();
}

std::vector<std::string> swept_isas() {
  std::vector<std::string> isas = host_isas();
  if (kThinned && isas.size() > 1) isas.pop_back();
  return isas;
}

}  // namespace kumiko::test
