// SPDX-License-Identifier: Apache-2.0
// operator new that fails on request, on the calling thread only.
#pragma once

#include <cstddef>

namespace kumiko::fuzz {

/// Between construction and destruction this thread's operator new refuses what is larger than `largest`
/// bytes, and, `countdown` >= 0, the request that comes after `countdown` others and all after it.
class FailingNew {
 public:
  FailingNew(std::size_t largest, long countdown);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
  /// Whether any was refused so far.
  static bool has_refused();
};

}  // namespace kumiko::fuzz
