// SPDX-License-Identifier: Apache-2.0
// How a problem is cut into tasks: rows into blocks, and along the keys what rows alone do not divide well.
#pragma once

#include <cstdint>

#include "runtime/plan.h"

namespace kumiko {

/// Fills tasks, costs, merges and partial_floats of a plan that is complete up to its tuning, for `workers`
/// threads, and deals the tasks to domains (assignment). Errors: unsupported (more tasks than kMaxTasks),
/// out_of_memory (split states that no address space holds).
Status partition_and_assign(Plan::Impl& plan, std::int64_t workers);

}  // namespace kumiko
