// SPDX-License-Identifier: Apache-2.0
// The limit of a call: it takes at least as long as its multiply-adds at the machine's peak, and as reading K
// and V at its bandwidth. With groups of g heads an element of K or V costs g multiply-adds, so that decode
// may be bound by either.
#pragma once

#include <algorithm>

namespace kumiko::bench {

/// The work of a call: useful multiply-adds, each counted as 2, and K and V read once.
struct Work {
  double flops = 0, bytes = 0;
};

/// The machine's limits per second.
struct Ceilings {
  double flops = 0, bytes = 0;

  /// The least time of a call: the longer of reading and multiplying.
  double limit(const Work& work) const { return std::max(work.flops / flops, work.bytes / bytes); }
  bool is_memory_bound(const Work& work) const { return work.bytes / bytes > work.flops / flops; }
};

}  // namespace kumiko::bench
