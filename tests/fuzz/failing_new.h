// SPDX-License-Identifier: Apache-2.0
// operator new that fails on request, on the calling thread only.
#pragma once

#include <cstddef>

namespace kumiko::fuzz {

/// Larger requests are refused, so that a huge plan fails at once and small ones run often.
inline constexpr std::size_t kLargestRequest = std::size_t{4} << 20;

/// During its lifetime this thread's operator new refuses requests larger than `largest` bytes and, if
/// `countdown` >= 0, all requests after the first `countdown`.
class FailingNew {
 public:
  FailingNew(std::size_t largest, long countdown);
  ~FailingNew();
  FailingNew(const FailingNew&) = delete;
  FailingNew& operator=(const FailingNew&) = delete;
  /// Whether any request has been refused.
  static bool has_refused();
};

}  // namespace kumiko::fuzz
