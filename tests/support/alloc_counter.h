// SPDX-License-Identifier: Apache-2.0
// Counts memory requests of the whole process, all threads. Link kumiko_test_alloc_counter into a test of its
// own: it replaces malloc, operator new and mmap for the entire program.
#pragma once

#include <cstdint>

namespace kumiko::test {

/// Counts while alive. Not nestable.
class AllocationCount {
 public:
  AllocationCount();
  ~AllocationCount();
  /// malloc family, operator new and mmap calls since construction. Under a sanitizer, which owns malloc,
  /// operator new and mmap only.
  std::int64_t calls() const;
};

}  // namespace kumiko::test
