// SPDX-License-Identifier: Apache-2.0
#include "runtime/partition.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "runtime/partitioner.h"

namespace kumiko {
namespace {

/// Ways to cut rows, fewest tasks first. Few rows over many keys are cut along the keys first: every row
/// block packs its keys, which takes 8 % of the time of 48 rows (tuning.cpp).
constexpr Way kWays[] = {{FineRows::halves, 8, 4}, {FineRows::halves, 8},  {FineRows::sixths, 8},
                         {FineRows::sixths, 6},    {FineRows::sixths, 20}, {FineRows::sixths, 30}};

/// When the last worker is done, and when all would be if none were ever idle; in FMAs.
struct Forecast {
  double makespan, even_share;
};
Forecast forecast(const Partition& partition, const Workforce& workforce, scheduler::PolicySpace& space) {
  double total = 0;
  for (const scheduler::Task& task : partition.costs) total += static_cast<double>(task.cost);
  const std::int64_t makespan = scheduler::simulate_makespan(partition.costs, partition.assignment,
                                                             workforce.workers_per_domain, space);
  return {static_cast<double>(makespan) * partition.cost_unit,
          total / static_cast<double>(workforce.workers()) * partition.cost_unit};
}

/// Puts the split states of each row block in the domain that computes them. Makes their offsets relative to
/// the domain's memory.
void place_split_states(std::int64_t v_head_dim, Partition& partition) {
  const std::int64_t state_size = kernels::partial_size(v_head_dim);
  const std::vector<std::int32_t>& begin = partition.assignment.domain_begin;
  for (PlannedMerge& merge : partition.merges) merge.domain = static_cast<std::int32_t>(begin.size());
  const PlannedTask* const tasks = partition.tasks.data();
  PlannedMerge* const merges = partition.merges.data();
  const std::int32_t* number = partition.assignment.order.data();
  for (std::int32_t d = 0; d + 1 < static_cast<std::int32_t>(begin.size()); ++d) {
    for (std::int32_t left = begin[d + 1] - begin[d]; left > 0; --left) {
      const PlannedTask& task = tasks[*number++];
      if (task.merge < 0) continue;
      for (PlannedMerge *merge = merges + task.merge, *end = merge + task.heads; merge != end; ++merge)
        merge->domain = std::min(merge->domain, d);
    }
  }
  partition.domain_floats.assign(begin.size() - 1, 0);
  for (PlannedMerge& merge : partition.merges) {
    std::int64_t& floats = partition.domain_floats[static_cast<std::size_t>(merge.domain)];
    merge.partial_offset = floats;
    floats += (merge.split_end - merge.split_begin) * (merge.row_end - merge.row_begin) * state_size;
  }
}

// Promised in docs/planning.md.
constexpr double kEvenEnough = 1.03;

/// Decode tries one way only: simulating a way would double the 17 to 50 us that a plan of 64 requests takes,
/// and pieces that are one split or several are even enough.
bool is_cut_once(const Problem& problem, const Tunings& tunings) {
  return tunings.of(problem.most_rows()).pipeline->traits.in_place;
}

/// Takes the first way that leaves little idle time, or else the one that is done soonest.
Status cut_and_assign(const Problem& problem, const Tunings& tunings,
                      std::span<const std::int32_t> kv_domains, const Workforce& workforce,
                      PartitionSpace& space, Partition* made) {
  Partition& best = space.best;
  double soonest = 0;
  // Every piece packs the keys it reads. That makes a piece of 48 rows take half as long again (Zen 5,
  // AVX-512, D = 128). 8 heads of 1024 on two threads: 61 tasks with sixths 11.9 ms, 28 with halves 11.1 ms,
  // 16 whole ones 11.6 ms, as one core then waits for the other.
  for (const Way& way : kWays) {
    if (!Partitioner::matters(way, problem, tunings, workforce.workers())) continue;
    Partitioner partitioner(problem, tunings, kv_domains, workforce.workers(), way, space, *made);
    if (Status s = partitioner.run(); !s.ok()) {
      if (soonest == 0) return s;
      break;
    }
    workforce.policy->fill(made->costs, workforce.workers_per_domain, space.policy, made->assignment);
    if (is_cut_once(problem, tunings) || !partitioner.wants_fine()) return {};
    const Forecast ahead = forecast(*made, workforce, space.policy);
    if (ahead.makespan <= kEvenEnough * ahead.even_share) return {};
    if (way.least_tiles > 1) continue;  // It cuts keys, and only at splits: taken only if that is even.
    if (soonest == 0 || ahead.makespan < soonest) {
      soonest = ahead.makespan;
      std::swap(best, *made);
    }
  }
  std::swap(best, *made);
  return {};
}

}  // namespace

std::int64_t Partition::most_rows(const kernels::PipelineRow* pipeline) const {
  std::int64_t most = 0;
  for (const PlannedTask& task : tasks) {
    if (pipeline && task.pipeline != pipeline) continue;
    most = std::max(most, task.row_end - task.row_begin);
  }
  return most;
}

std::int64_t Partition::most_heads() const {
  std::int64_t most = 1;
  for (const PlannedTask& task : tasks) most = std::max<std::int64_t>(most, task.heads);
  return most;
}

void Partition::reserve(const PartitionSize& size, std::size_t domains) {
  tasks.reserve(size.tasks);
  costs.reserve(size.tasks);
  merges.reserve(size.merges);
  domain_floats.reserve(domains);
  assignment.order.reserve(size.tasks);
  assignment.domain_begin.reserve(domains + 1);
}

bool Partition::has_splits_of(const Problem& problem) const {
  const PlannedTask* before = nullptr;
  RowBlock block{};
  std::int64_t first_row_end = 0;
  for (const PlannedTask& task : tasks) {
    if (task.shared >= 0) continue;
    // Rows that are read in place are one block in each head. Tiles are cut finer in some heads than in
    // others.
    if (task.pipeline->traits.in_place && task.kv_head != problem.first_head()) continue;
    if (!before || before->batch != task.batch || before->row_begin != task.row_begin ||
        before->row_end != task.row_end) {
      const kernels::HeadProblem head = problem.keys_seen(task.batch);
      block = keys_of_rows(head, task.row_begin, task.row_end);
      first_row_end = head.end_of(task.row_begin);
      before = &task;
    }
    const PlannedMerge* merge = task.merge < 0 ? nullptr : &merges[static_cast<std::size_t>(task.merge)];
    const std::int64_t before_own = merge ? merge->shared_splits : 0;
    if (block.split_begin + before_own != (merge ? merge->split_begin : task.split_begin) ||
        block.split_end != (merge ? merge->split_end : task.split_end) ||
        first_row_end < before_own * kernels::kSplitKeys)
      return false;
  }
  return true;
}

std::int64_t Workforce::workers() const {
  return std::accumulate(workers_per_domain.begin(), workers_per_domain.end(), std::int64_t{0});
}

PartitionSize reserve_for_any_lengths(const Problem& problem, const Tunings& tunings,
                                      const Workforce& workforce, PartitionSpace& space) {
  PartitionSize most;
  for (const Way& way : kWays) {
    if (!Partitioner::matters(way, problem, tunings, workforce.workers())) continue;
    const PartitionSize size =
        Partitioner(problem, tunings, {}, workforce.workers(), way, space, space.best).most();
    most = {std::max(most.tasks, size.tasks),
            std::max(most.merges, size.merges),
            std::max(most.partial_floats, size.partial_floats),
            std::max(most.tile_rows, size.tile_rows),
            std::max(most.heads, size.heads),
            std::max(most.blocks, size.blocks),
            std::max(most.cuts, size.cuts),
            std::max(most.pieces, size.pieces)};
    if (is_cut_once(problem, tunings)) break;
  }
  if (most.tasks == 0) return most;  // More than a plan may have: make_partition() returns the error.
  const std::size_t domains = workforce.workers_per_domain.size();
  const std::size_t pieces = std::min(most.tasks, most.pieces);
  const bool may_share = problem.page_keys > 0;  // Tasks of shared keys lie after all others.
  space.policy.reserve(most.tasks, may_share ? most.tasks : pieces,
                       static_cast<std::size_t>(problem.batch * problem.kv_heads), may_share,
                       workforce.workers_per_domain);
  space.pieces.reserve(pieces);
  space.cuts.reserve(std::min(most.tasks, most.cuts));
  space.ways.reserve(2 * most.blocks);
  if (!is_cut_once(problem, tunings)) space.best.reserve(most, domains);
  return most;
}

Status make_partition(const Problem& problem, const Tunings& tunings,
                      std::span<const std::int32_t> kv_domains, const Workforce& workforce,
                      PartitionSpace& space, Partition* made) {
  if (Status s = cut_and_assign(problem, tunings, kv_domains, workforce, space, made); !s.ok()) return s;
  place_split_states(problem.v_head_dim, *made);
  return {};
}

}  // namespace kumiko
