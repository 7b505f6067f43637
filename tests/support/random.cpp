#include "tests/support/random.h"

#include <algorithm>
#include <cstdlib>

namespace kumiko::test {

std::uint64_t test_seed(std::uint64_t fallback) {
  const char* text = std::getenv("KUMIKO_TEST_SEED");
  return text != nullptr ? std::strtoull(text, nullptr, 0) : fallback;
}

int sweep_size(int cases) {
  return kThinned ? std::max(cases / 10, 1) : cases;
}

}  // namespace kumiko::test
