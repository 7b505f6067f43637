// The memory that every benchmark reads.
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
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

/// Random f32 values, uniform in [-2, 2): scores then have a standard deviation of 4/3 and a softmax is far
/// from flat. One buffer for the whole process, at least 256 MiB and 8 times the last-level cache, in huge
/// pages where the kernel gives them: the keys and values of every problem lie in it, and the read ceiling is
/// measured over the same pages.
std::span<const float> data_pool();

/// The same values rounded to `type`, as many as the f32 pool has (half the bytes for 16-bit types).
std::span<const std::byte> data_pool(DataType type);

constexpr std::int64_t bytes_of(DataType type) {
  return type == DataType::f32 ? 4 : 2;
}
/// Rounds to nearest even and back. For ordinary values, not for NaN, overflow or subnormal results.
void store_rounded(DataType type, float x, std::byte* to);
float load_widened(DataType type, const std::byte* from);

}  // namespace kumiko::bench
