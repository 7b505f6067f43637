// SPDX-License-Identifier: Apache-2.0
#include "runtime/traffic.h"

#include <limits>

#include "runtime/row_block.h"

namespace kumiko {
namespace {

constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();

// With strides of 0 sizes can reach 2^62, so products and sums saturate.
std::int64_t product(std::int64_t a, std::int64_t b) {
  std::int64_t result = 0;
  return __builtin_mul_overflow(a, b, &result) ? kMost : result;
}

void add(std::int64_t& sum, std::int64_t more) {
  if (__builtin_add_overflow(sum, more, &sum)) sum = kMost;
}

std::int64_t sum_of(const std::vector<std::int64_t>& bytes) {
  std::int64_t sum = 0;
  for (const std::int64_t b : bytes) add(sum, b);
  return sum;
}

}  // namespace

std::int64_t Traffic::total_local() const {
  return sum_of(local);
}

std::int64_t Traffic::total_remote() const {
  return sum_of(remote);
}

std::int64_t bytes_of_head(const Plan::Impl& plan, const PlannedTask& task) {
  const std::int64_t key_bytes = plan.problem.key_bytes();
  if (task.shared >= 0) return product((task.split_end - task.split_begin) * kernels::kSplitKeys, key_bytes);
  const kernels::HeadProblem head = plan.problem.keys_seen(task.batch);
  const RowBlock block = keys_of_rows(head, task.row_begin, task.row_end);
  return product(block.keys_until(task.split_end) - block.keys_until(task.split_begin), key_bytes) /
         plan.problem.part.parts;
}

std::int64_t bytes_read(const Plan::Impl& plan, const PlannedTask& task) {
  return product(bytes_of_head(plan, task), task.heads);
}

Traffic planned_traffic(const Plan::Impl& plan) {
  Traffic traffic;
  const scheduler::Assignment& assignment = plan.partition.assignment;
  if (plan.partition.tasks.empty() || assignment.domain_begin.size() < 2) return traffic;
  const std::size_t domains = assignment.domain_begin.size() - 1;
  const auto heads = static_cast<std::size_t>(plan.problem.batch * plan.problem.kv_heads);
  const auto for_each_task = [&](auto visit) {
    for (std::size_t d = 0; d < domains; ++d) {
      for (std::int32_t i = assignment.domain_begin[d]; i < assignment.domain_begin[d + 1]; ++i) {
        const PlannedTask& task = plan.partition.tasks[static_cast<std::size_t>(assignment.order[i])];
        const std::int64_t bytes = bytes_of_head(plan, task);
        for (std::size_t head = head_number(plan, task), end = head + static_cast<std::size_t>(task.heads);
             head < end; ++head)
          visit(d, head, bytes);
      }
    }
  };

  struct Head {
    std::int64_t most = -1;  // of one domain
    std::int64_t here = 0;   // of the current domain
    std::int32_t last_reader = -1;
    std::int32_t readers = 0;
  };
  std::vector<Head> seen(heads);
  traffic.home.assign(heads, 0);
  for_each_task([&](std::size_t domain, std::size_t number, std::int64_t bytes) {
    Head& head = seen[number];
    const auto reader = static_cast<std::int32_t>(domain);
    if (head.last_reader != reader) {
      head.here = 0;
      head.last_reader = reader;
      ++head.readers;
    }
    add(head.here, bytes);
    if (head.here <= head.most) return;
    head.most = head.here;
    traffic.home[number] = reader;
  });
  for (const Head& head : seen) traffic.cut_heads += head.readers > 1;
  for (std::size_t i = 0; i < plan.kv_domains.size(); ++i) {
    if (plan.kv_domains[i] >= 0) traffic.home[i] = plan.kv_domains[i];
  }
  traffic.local.assign(domains, 0);
  traffic.remote.assign(domains, 0);
  for_each_task([&](std::size_t domain, std::size_t number, std::int64_t bytes) {
    const bool is_home = traffic.home[number] == static_cast<std::int32_t>(domain);
    add((is_home ? traffic.local : traffic.remote)[domain], bytes);
  });
  return traffic;
}

}  // namespace kumiko
