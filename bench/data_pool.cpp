// SPDX-License-Identifier: Apache-2.0
#include "bench/data_pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>

#include "bench/machine_peak.h"

namespace kumiko::bench {
namespace {

constexpr std::uint64_t kPoolSeed = 0x9e3779b97f4a7c15ull;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
bool wants_huge_pages = true;

std::span<std::byte> map_pages(std::size_t bytes) {
  bytes = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("cannot map the data pool");
  // Only advice: if it is not followed, all figures are those of 4 KiB pages, the ceiling's included.
  madvise(memory, bytes, wants_huge_pages ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  return {static_cast<std::byte*>(memory), bytes};
}

// Bytes of the level 3 caches of the cores that this process may run on; 0 if the system does not report
// them. The C library's figure is for a whole socket: 384 MiB on a virtual machine that has 32 MiB of it.
std::size_t last_level_caches() {
  std::size_t sum = 0;
  std::set<std::string> seen;
  for (const int cpu : allowed_cores()) {
    for (int index = 0; index < 8; ++index) {
      const std::string folder =
          "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/cache/index" + std::to_string(index) + "/";
      int level = 0;
      std::size_t kib = 0;
      std::string sharers;
      std::ifstream(folder + "level") >> level;
      std::ifstream(folder + "size") >> kib;
      std::ifstream(folder + "shared_cpu_list") >> sharers;
      if (level == 3 && seen.insert(sharers).second) sum += kib << 10;
    }
  }
  return sum;
}

std::span<const float> make_pool() {
  const std::span<std::byte> pages = map_pages(bytes_beyond_caches());
  const std::span<float> pool(reinterpret_cast<float*>(pages.data()), pages.size() / sizeof(float));
  Random random(kPoolSeed);
  for (float& x : pool) x = random.uniform();
  return pool;
}

std::span<const std::byte> make_narrow_pool(DataType type) {
  const std::span<std::byte> pool = map_pages(bytes_beyond_caches());
  Random random(kPoolSeed);
  for (std::size_t i = 0; i < pool.size(); i += 2) store_rounded(type, random.uniform(), pool.data() + i);
  return pool;
}

}  // namespace

std::size_t bytes_beyond_caches() {
  static const std::size_t bytes = std::max(std::size_t{256} << 20, 8 * last_level_caches());
  return bytes;
}

void use_huge_pages(bool huge) {
  wants_huge_pages = huge;
}

Pages::Pages(std::size_t bytes) : memory_(map_pages(bytes)) {}

Pages::~Pages() {
  munmap(memory_.data(), memory_.size());
}

// A hypervisor takes pages away for a while when it scans or moves them, and the next access waits: without
// this and the repeated rounds (rounds.h) 7 of 50 decode figures were below six tenths of the others, with
// them 1.
void Pages::touch() const {
  constexpr std::size_t kPage = 4096;
  for (std::size_t i = 0; i < memory_.size(); i += kPage)
    static_cast<void>(*static_cast<const volatile std::byte*>(&memory_[i]));
}

std::span<const float> data_pool() {
  static const std::span<const float> pool = make_pool();
  return pool;
}

std::span<const std::byte> data_pool(DataType type) {
  if (type == DataType::f32) return std::as_bytes(data_pool());
  if (type == DataType::bf16) {
    static const std::span<const std::byte> pool = make_narrow_pool(type);
    return pool;
  }
  static const std::span<const std::byte> pool = make_narrow_pool(type);
  return pool;
}

// Both 16-bit types are an f32 with fewer fraction bits and, for f16, another exponent bias. Below 2^-14 an
// f16 counts units of 2^-24; adding 0.5 leaves that number in the last bits of an f32.
void store_rounded(DataType type, float x, std::byte* to) {
  if (type == DataType::f32) {
    std::memcpy(to, &x, sizeof x);
    return;
  }
  const bool half = type == DataType::f16;
  const int dropped = half ? 13 : 16;
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  std::uint32_t rounded = 0;
  if (half && magnitude < 113u << 23) {
    rounded = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) & 0x7fffffu;
  } else {
    rounded =
        (magnitude - (half ? 112u << 23 : 0u) + (1u << (dropped - 1)) - 1 + (magnitude >> dropped & 1u)) >>
        dropped;
  }
  const auto narrow = static_cast<std::uint16_t>(rounded | (bits >> 16 & 0x8000u));
  std::memcpy(to, &narrow, sizeof narrow);
}

}  // namespace kumiko::bench
