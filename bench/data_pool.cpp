#include "bench/data_pool.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

namespace kumiko::bench {
namespace {

std::span<const float> make_pool() {
  const long last_level = sysconf(_SC_LEVEL3_CACHE_SIZE);
  std::size_t bytes = std::size_t{256} << 20;
  if (last_level > 0) bytes = std::max(bytes, 8 * static_cast<std::size_t>(last_level));
  bytes = (bytes + (std::size_t{2} << 20) - 1) >> 21 << 21;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("cannot map the data pool");
  // Advice: without it the figures are those of 4 KiB pages, ceiling included.
  madvise(memory, bytes, MADV_HUGEPAGE);
  const std::span<float> pool(static_cast<float*>(memory), bytes / sizeof(float));
  Random random(0x9e3779b97f4a7c15ull);
  for (float& x : pool) x = random.uniform();
  return pool;
}

}  // namespace

std::span<const float> data_pool() {
  static const std::span<const float> pool = make_pool();
  return pool;
}

}  // namespace kumiko::bench
