// SPDX-License-Identifier: Apache-2.0
#include "bench/ceilings.h"

#include <map>
#include <memory>

namespace kumiko::bench {

std::vector<int> first_cores(int threads) {
  static const std::vector<int> all = allowed_cores();  // Before any affinity is narrowed.
  return {all.begin(), all.begin() + threads};
}

double read_ceiling(int threads, std::span<const std::byte> buffer) {
  static std::map<int, std::unique_ptr<ReadCeiling>> ceilings;
  auto& entry = ceilings[threads];
  if (!entry) entry = std::make_unique<ReadCeiling>(buffer, first_cores(threads), clock_of(threads));
  entry->read_from(buffer);
  return entry->bytes_per_second(kReadWindow);
}

Ceilings both_ceilings(const FmaRow& row, int threads, std::span<const std::byte> buffer) {
  return {fma_flops(row, first_cores(threads), kFmaWindow, clock_of(threads)), read_ceiling(threads, buffer)};
}

void CoreGain::begin() {
  one_ = fma_flops(row_, first_cores(1), kFmaWindow, Clock::wall);
}

double CoreGain::end() const {
  return fma_flops(row_, first_cores(threads_), kFmaWindow, Clock::wall) / one_;
}

}  // namespace kumiko::bench
