// SPDX-License-Identifier: Apache-2.0
// The fuzzer's bytes as numbers. Past the end all are 0, so every input is valid.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <string>

namespace kumiko::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : at_(data), end_(data + size) {}

  bool is_used_up() const { return at_ == end_; }
  std::uint8_t byte() { return at_ == end_ ? std::uint8_t{0} : *at_++; }
  int below(int n) { return byte() % n; }
  bool one_in(int n) { return below(n) == n - 1; }

  template <class T>
  T raw() {
    unsigned char bytes[sizeof(T)];
    for (unsigned char& b : bytes) b = byte();
    T value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  template <class T, std::size_t n>
  T pick(const T (&table)[n]) {
    return table[below(static_cast<int>(n))];
  }

  /// Any 64-bit number; small ones, powers of two and their neighbours are more frequent.
  std::int64_t number() {
    switch (below(4)) {
      case 0:
        return static_cast<std::int8_t>(byte());
      case 1: {
        const std::uint64_t power = std::uint64_t{1} << below(64);
        const auto off = static_cast<std::uint64_t>(static_cast<std::int64_t>(below(5) - 2));
        return static_cast<std::int64_t>(byte() % 2 ? ~(power + off) : power + off);
      }
      case 2:
        return raw<std::int32_t>();
      default:
        return raw<std::int64_t>();
    }
  }
  std::string text(int longest) {
    std::string result;
    for (int left = below(longest + 1); left > 0; --left) result += static_cast<char>(byte());
    return result.c_str();  // as in C: up to the first 0
  }

 private:
  const std::uint8_t *at_, *end_;
};

}  // namespace kumiko::fuzz
