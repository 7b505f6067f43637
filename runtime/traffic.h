// SPDX-License-Identifier: Apache-2.0
// Bytes of K and V that a plan's tasks read, and from which domain. All of it is by plan: a task counts for
// the domain it is assigned to, whichever worker runs it. A KV head is at home where
// AttentionArgs::kv_domains puts it; without that, in the domain that reads most of it.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/plan.h"

namespace kumiko {

struct Traffic {
  std::vector<std::int32_t>
      home;  ///< [batch * kv_heads] kv_domains, or the domain that reads most of the head
  std::vector<std::int64_t> local;   ///< [domains] bytes its tasks read of heads at home there
  std::vector<std::int64_t> remote;  ///< [domains] bytes its tasks read of other domains' heads
  std::int64_t cut_heads = 0;        ///< KV heads that several domains read

  std::int64_t total_local() const;
  std::int64_t total_remote() const;
};

Traffic planned_traffic(const Plan::Impl& plan);

/// Bytes of K and V that one task reads of each of its heads and of all, each counted once.
std::int64_t bytes_of_head(const Plan::Impl& plan, const PlannedTask& task);
std::int64_t bytes_read(const Plan::Impl& plan, const PlannedTask& task);

/// The index of the task's first head in Traffic::home.
inline std::size_t head_number(const Plan::Impl& plan, const PlannedTask& task) {
  return static_cast<std::size_t>(task.batch * plan.problem.kv_heads + task.kv_head);
}

}  // namespace kumiko
