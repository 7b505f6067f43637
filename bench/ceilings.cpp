#include "bench/ceilings.h"

#include <map>
#include <memory>
#include <span>

#include "bench/data_pool.h"

namespace kumiko::bench {

std::vector<int> first_cores(int threads) {
  static const std::vector<int> all = allowed_cores();  // Before any affinity is narrowed.
  return {all.begin(), all.begin() + threads};
}

ReadCeiling& read_ceiling(int threads) {
  static std::map<int, std::unique_ptr<ReadCeiling>> ceilings;
  auto& entry = ceilings[threads];
  if (!entry) entry = std::make_unique<ReadCeiling>(std::as_bytes(data_pool()), first_cores(threads));
  return *entry;
}

}  // namespace kumiko::bench
