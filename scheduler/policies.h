// SPDX-License-Identifier: Apache-2.0
// The functions behind the rows of policies.cpp: one file and one row each.
#pragma once

#include "scheduler/policy.h"

namespace kumiko::scheduler {

void assign_heads_first(std::span<const Task> tasks, std::span<const int> workers_per_domain,
                        PolicySpace& space, Assignment& result);
void assign_flat(std::span<const Task> tasks, std::span<const int> workers_per_domain, PolicySpace& space,
                 Assignment& result);

}  // namespace kumiko::scheduler
