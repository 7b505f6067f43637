// SPDX-License-Identifier: Apache-2.0
// Memory between two inaccessible pages: an instruction that reads or writes one byte outside it gets a
// SIGSEGV.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kumiko::test {

/// Which guard page the data touches. Only one side can be flush; the other side's slack is filled and
/// checked.
enum class Flush { front, back };

/// `bytes` of read-write memory whose first (front) or one-past-last (back) byte lies on a guard page. A
/// back-flush buffer of n floats is only 4-byte aligned, unless n * 4 divides the vector width: so it tests
/// misaligned bases too. Move-only.
class GuardedBuffer {
 public:
  GuardedBuffer() = default;
  /// `reserved` more bytes after the data stay inaccessible: a view may include them, but no access may reach
  /// them.
  GuardedBuffer(std::size_t bytes, Flush flush, std::size_t reserved = 0);
  GuardedBuffer(GuardedBuffer&& other) noexcept;
  GuardedBuffer& operator=(GuardedBuffer&& other) noexcept;
  ~GuardedBuffer();

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  /// True if the memory between the data and the far guard page was not written.
  bool slack_untouched() const;

 private:
  std::byte* mapping_ = nullptr;
  std::size_t mapping_bytes_ = 0;
  std::size_t body_bytes_ = 0;  ///< The accessible part.
  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace kumiko::test
