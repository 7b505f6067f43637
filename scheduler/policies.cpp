// SPDX-License-Identifier: Apache-2.0
#include "scheduler/policies.h"

#include "scheduler/list_schedule.h"

namespace kumiko::scheduler {
namespace {

constexpr PolicyRow kPolicies[] = {
    {"heads_first", assign_heads_first},
    {"flat", assign_flat},
};

}  // namespace

Assignment PolicyRow::assign(std::span<const Task> tasks, std::span<const int> workers_per_domain) const {
  PolicySpace space;
  Assignment result;
  fill(tasks, workers_per_domain, space, result);
  return result;
}

std::span<const PolicyRow> policies() {
  return kPolicies;
}

const PolicyRow* find_policy(const std::string& name) {
  for (const PolicyRow& row : kPolicies) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

}  // namespace kumiko::scheduler
