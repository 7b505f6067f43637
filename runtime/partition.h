// SPDX-License-Identifier: Apache-2.0
// How a problem is cut into tasks, rows into blocks, and along the keys what rows alone do not divide well;
// and which domain takes which task.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/problem.h"
#include "runtime/tuning.h"
#include "scheduler/policy.h"

namespace kumiko {

/// Rows [row_begin, row_end) of one KV head of one sequence over splits [split_begin, split_end).
struct PlannedTask {
  std::int32_t batch, kv_head;
  std::int64_t row_begin, row_end;
  std::int64_t split_begin, split_end;
  const kernels::PipelineRow* pipeline;
  std::int32_t merge;  ///< Index into Partition::merges where several tasks share the rows' splits, else -1.
};

/// Rows whose splits several tasks computed; the last of these tasks merges them.
struct PlannedMerge {
  std::int32_t tasks;
  std::int64_t split_begin, split_end;
  std::int64_t row_begin, row_end;
  std::int64_t partial_offset;  ///< Floats into its domain's RunState::partials: states of these splits of
                                ///< these rows.
  std::int32_t domain;          ///< That of its tasks, by the assignment; of the first where they differ.
};

struct Partition {
  std::vector<PlannedTask> tasks;
  std::vector<scheduler::Task> costs;  ///< [tasks], as the policy saw them, in cost_unit FMAs
  std::vector<PlannedMerge> merges;
  double cost_unit = 1;  ///< Costs were divided by this power of two, so that their sum fits.
  std::int64_t partial_floats = 0;
  std::vector<std::int64_t> domain_floats;  ///< [domains] its share of partial_floats
  scheduler::Assignment assignment;

  /// Rows of the largest task.
  std::int64_t most_rows() const;
  /// Whether the problem would be cut along the same keys: every row block still begins and ends in the
  /// splits that its tasks have.
  bool has_splits_of(const Problem& problem) const;
};

/// For whom the tasks are.
struct Workforce {
  std::span<const int> workers_per_domain;
  const scheduler::PolicyRow* policy;

  std::int64_t workers() const;
};

/// kv_domains: [batch * kv_heads] the domain where a head's memory lies, -1: any; or empty. `made` may hold
/// an earlier partition, whose memory is used again. Errors: unsupported (more tasks than kMaxTasks),
/// out_of_memory (split states that no address space holds); `made` is then of no use.
Status make_partition(const Problem& problem, const Tuning& tuning, std::span<const std::int32_t> kv_domains,
                      const Workforce& workforce, Partition* made);

/// A task takes about 200 bytes while its plan is made, so these are 13 GB, and the schedulers number tasks
/// in 32 bits. The largest batch we know of, all windows of a vision model, has 10^5.
inline constexpr std::int64_t kMaxTasks = std::int64_t{1} << 26;

}  // namespace kumiko
