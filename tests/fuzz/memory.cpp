// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/memory.h"

#include <algorithm>
#include <cmath>

namespace kumiko::fuzz {
namespace {

// Two of these pairs make an f32, one a bf16 or f16: NaNs that neither arithmetic nor any two halves of
// fill()'s values give.
constexpr unsigned char kUnwritten[2] = {0xdd, 0x7f};

std::uint32_t next(std::uint32_t* seed) {
  return *seed = *seed * 1664525u + 1013904223u;
}

std::uint16_t f16_bits(double value) {
  if (std::isnan(value)) return 0x7e00;
  const std::uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  if (std::isinf(value)) return sign | 0x7c00;
  int exponent = 0;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // in [0.5, 1)
  if (value == 0.0 || exponent < -13) return sign;
  return static_cast<std::uint16_t>(sign | ((exponent + 14) << 10) |
                                    (static_cast<int>(fraction * 2048.0) & 1023));
}

double f16_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double magnitude = std::ldexp(exponent ? 1024 + mantissa : mantissa, std::max(exponent, 1) - 25);
  if (exponent == 31)
    magnitude = mantissa ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
  return bits & 0x8000 ? -magnitude : magnitude;
}

}  // namespace

int bytes_of(std::int32_t dtype) {
  return dtype == KUMIKO_BOOLEAN || dtype == KUMIKO_I8 ? 1
         : dtype == KUMIKO_BF16 || dtype == KUMIKO_F16 ? 2
                                                       : 4;
}

Buffer::Buffer(std::int64_t count, std::int32_t dtype, bool is_output)
    : size_(static_cast<std::size_t>(count * bytes_of(dtype))), dtype_(dtype), is_output_(is_output) {
  if (size_ > 0) bytes_ = std::make_unique<unsigned char[]>(size_);
}

void Buffer::set(std::size_t i, double value) {
  unsigned char* const at = bytes_.get() + i * static_cast<std::size_t>(bytes_of(dtype_));
  if (dtype_ == KUMIKO_F32 || dtype_ == KUMIKO_BF16) {
    const float narrow = static_cast<float>(value);
    unsigned char bits[4];
    std::memcpy(bits, &narrow, 4);
    if (dtype_ == KUMIKO_F32)
      std::memcpy(at, bits, 4);
    else
      std::memcpy(at, bits + 2, 2);  // the upper half: little-endian
  } else if (dtype_ == KUMIKO_F16) {
    const std::uint16_t bits = f16_bits(value);
    std::memcpy(at, &bits, 2);
  } else if (dtype_ == KUMIKO_BOOLEAN) {
    *at = static_cast<unsigned char>(value);
  } else if (dtype_ == KUMIKO_I8) {
    *at = static_cast<unsigned char>(static_cast<signed char>(value));
  } else {
    const auto integer = static_cast<std::int32_t>(value);
    std::memcpy(at, &integer, 4);
  }
}

void Buffer::fill(std::uint32_t seed, bool with_specials) {
  const bool is_real = dtype_ != KUMIKO_BOOLEAN && dtype_ != KUMIKO_I32 && dtype_ != KUMIKO_I8;
  for (std::size_t i = 0; i < size_ / static_cast<std::size_t>(bytes_of(dtype_)); ++i) {
    const std::int32_t number = static_cast<std::int32_t>(next(&seed)) >> 16;
    double value = number / 16384.0;
    if (dtype_ == KUMIKO_BOOLEAN) value = number & 0xc0 ? 1 << (number & 7) : 0;
    if (dtype_ == KUMIKO_I32) value = number & ~31;
    if (dtype_ == KUMIKO_I8) value = number >> 8;
    if (is_real && with_specials && seed >> 24 == 7) value = std::numeric_limits<double>::infinity();
    if (is_real && with_specials && seed >> 24 == 9) value = std::numeric_limits<double>::quiet_NaN();
    set(i, value);
  }
}

void Buffer::sprinkle(std::uint32_t seed, int one_in, double value) {
  for (std::size_t i = 0; i < size_ / static_cast<std::size_t>(bytes_of(dtype_)); ++i) {
    if ((next(&seed) >> 8) % static_cast<unsigned>(one_in) == 0) set(i, value);
  }
}

void Buffer::poison() {
  for (std::size_t i = 0; i < size_; ++i) bytes_[i] = kUnwritten[i % 2];
}

bool Buffer::is_poisoned(std::size_t begin, std::size_t end) const {
  for (std::size_t i = begin; i < end; ++i) {
    if (bytes_[i] != kUnwritten[i % 2]) return false;
  }
  return true;
}

double Buffer::value(std::size_t i, std::int32_t dtype) const {
  const unsigned char* const at = bytes_.get() + i * static_cast<std::size_t>(bytes_of(dtype));
  if (dtype == KUMIKO_F16) {
    std::uint16_t bits;
    std::memcpy(&bits, at, 2);
    return f16_value(bits);
  }
  float value = 0.0f;
  if (dtype == KUMIKO_BF16)
    std::memcpy(reinterpret_cast<unsigned char*>(&value) + 2, at, 2);
  else
    std::memcpy(&value, at, 4);
  return static_cast<double>(value);
}

bool is_empty(const std::int64_t* shape, int dims) {
  return std::find(shape, shape + dims, 0) != shape + dims;
}

// Sizes below 2^31 times strides below 2^63: far from 2^127.
Wide extent_of(const std::int64_t* shape, const std::int64_t* stride, int dims) {
  Wide last = 0;
  for (int i = 0; i < dims; ++i) last += static_cast<Wide>(shape[i] - 1) * stride[i];
  return is_empty(shape, dims) ? 0 : last + 1;
}

// An element counts as 4 bytes for every type.
bool fits(const std::int64_t* shape, const std::int64_t* stride, int dims) {
  Wide count = 1;
  for (int i = 0; i < dims; ++i) {
    if (shape[i] < 0 || shape[i] > kMaxSize) return false;
  }
  if (is_empty(shape, dims)) return true;
  for (int i = 0; i < dims; ++i) {
    count *= shape[i];
    if (count * 4 > kMaxBytes || stride[i] < 0) return false;
  }
  return extent_of(shape, stride, dims) * 4 <= kMaxBytes;
}

std::array<std::int64_t, 4> lse_strides(const std::int64_t* stride, const std::int64_t* shape) {
  if (stride[0] != 0 || stride[1] != 0 || stride[2] != 0) return {stride[0], stride[1], stride[2], 0};
  const Wide rows = static_cast<Wide>(shape[1]) * shape[2];
  return {rows > kMaxBytes ? kMaxBytes : static_cast<std::int64_t>(rows), shape[2], 1, 0};
}

Layout::Layout(std::array<std::int64_t, 4> sizes, Order order, int broadcast, std::int64_t pad)
    : shape(sizes) {
  static constexpr std::size_t kInnermostFirst[3][4] = {{3, 2, 1, 0}, {3, 1, 2, 0}, {2, 3, 1, 0}};
  std::int64_t step = 1;
  for (const std::size_t i : kInnermostFirst[order]) {
    if (broadcast >> i & 1) continue;
    stride[i] = step;
    step *= std::max<std::int64_t>(shape[i], 1);
    if (i == kInnermostFirst[order][0]) step += pad;
  }
}

}  // namespace kumiko::fuzz
