// SPDX-License-Identifier: Apache-2.0
#include "tests/support/random.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

namespace kumiko::test {

std::uint64_t test_seed(std::uint64_t fallback) {
  const char* text = std::getenv("KUMIKO_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

int sweep_size(int cases) {
  return kThinned ? std::max(cases / 10, 1) : cases;
}

int thinning_asked_for(int least) {
  const char* text = std::getenv("KUMIKO_TEST_THINNED");
  const std::string_view asked = text != nullptr ? text : "";
  return std::max(least, asked == "2" ? 2 : asked == "1" ? 1 : 0);
}

}  // namespace kumiko::test
