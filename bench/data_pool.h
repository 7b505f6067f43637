// SPDX-License-Identifier: Apache-2.0
// The memory that benchmarks read.
#pragma once

#include <kumiko/attention.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace kumiko::bench {

/// xorshift64*: fast enough to fill 256 MiB in 0.2 s, the same values in every run.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dull;
  }
  /// In [-2, 2).
  float uniform() { return static_cast<float>(static_cast<std::int32_t>(next() >> 32)) * 0x1p-30f; }
  /// In [0, n).
  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>((next() >> 33) % static_cast<std::uint64_t>(n));
  }

 private:
  std::uint64_t state_;
};

/// 256 MiB, or 8 times the last-level caches of the cores that this process may run on if that is more: reads
/// that cycle through so much come from memory.
std::size_t bytes_beyond_caches();

/// Whether Pages and data_pool() ask for huge pages from now on, as by default, or for pages of the base
/// size.
void use_huge_pages(bool huge);

/// Zeroed memory of whole huge pages, in huge pages if the kernel grants them.
class Pages {
 public:
  explicit Pages(std::size_t bytes);
  ~Pages();
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  std::byte* data() const { return memory_.data(); }
  /// Reads a byte of every page.
  void touch() const;

 private:
  std::span<std::byte> memory_;
};

/// Random f32 values, uniform in [-2, 2). One buffer of bytes_beyond_caches() for the whole process, in huge
/// pages if the kernel grants them: the kernels' own benchmarks read it.
std::span<const float> data_pool();

/// As many bytes of the same values rounded to `type`.
std::span<const std::byte> data_pool(DataType type);

constexpr std::int64_t bytes_of(DataType type) {
  return type == DataType::f32 ? 4 : 2;
}
/// Rounds to nearest even. Not for NaN, overflow or a subnormal bf16. The conversion back takes every value.
void store_rounded(DataType type, float x, std::byte* to);
// Inline, so that in a loop over a row the type is tested once.
inline float load_widened(DataType type, const std::byte* from) {
  if (type == DataType::f32) {
    float x = 0;
    std::memcpy(&x, from, sizeof x);
    return x;
  }
  std::uint16_t narrow = 0;
  std::memcpy(&narrow, from, sizeof narrow);
  const std::uint32_t sign = static_cast<std::uint32_t>(narrow & 0x8000u) << 16, magnitude = narrow & 0x7fffu;
  if (type == DataType::bf16) return std::bit_cast<float>(sign | magnitude << 16);
  if (magnitude < 0x400u) return static_cast<float>(magnitude) * (sign != 0 ? -0x1p-24f : 0x1p-24f);
  const std::uint32_t bias = magnitude < 0x7c00u ? 112u : 224u;  // Infinities and NaN.
  return std::bit_cast<float>(sign | ((magnitude << 13) + (bias << 23)));
}

}  // namespace kumiko::bench
