// SPDX-License-Identifier: Apache-2.0
// Which domain does what: pure functions from task costs and a machine to an order of work. No threads, no
// clocks, no tensors.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace kumiko::scheduler {

struct Task {
  std::int64_t cost = 0;  ///< Predicted work in any unit that is the same for all tasks of a plan.
  std::int32_t group =
      0;  ///< Tasks of one group read the same memory (one KV head): a domain should own them together.
  std::int32_t home = -1;  ///< The domain whose memory holds it, the same for all of a group; -1: any.
};

/// The tasks of each domain, costliest first. A worker takes from its own domain first, then helps others.
struct Assignment {
  std::vector<std::int32_t> order;  ///< Task numbers, domain after domain.
  std::vector<std::int32_t>
      domain_begin;  ///< Size domains + 1: domain d owns order[domain_begin[d], domain_begin[d + 1]).
  std::int64_t lower_bound = 0;  ///< max(ceil(total / workers), costliest task).
};

struct PolicySpace;  // list_schedule.h

/// `workers_per_domain`: how many workers sit in each domain; some may be 0, not all. Allocates only what
/// `space` and `result` have not had before.
using PolicyFunction = void (*)(std::span<const Task>, std::span<const int> workers_per_domain,
                                PolicySpace& space, Assignment& result);

struct PolicyRow {
  const char* name;
  PolicyFunction fill;

  /// The same, in new memory.
  Assignment assign(std::span<const Task> tasks, std::span<const int> workers_per_domain) const;
};
/// The first row is the default.
std::span<const PolicyRow> policies();
const PolicyRow* find_policy(const std::string& name);

}  // namespace kumiko::scheduler
