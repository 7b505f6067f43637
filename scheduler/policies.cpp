// SPDX-License-Identifier: Apache-2.0
#include "scheduler/policies.h"

namespace kumiko::scheduler {
namespace {

constexpr PolicyRow kPolicies[] = {
    {"heads_first", assign_heads_first},
    {"flat", assign_flat},
};

}  // namespace

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
