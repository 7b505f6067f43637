// SPDX-License-Identifier: Apache-2.0
// Where memory is and which threads run where, according to the kernel.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <vector>

#include "scheduler/executor.h"

namespace kumiko::test {

/// Node of every page in [data, data + bytes); -errno for a page that is not mapped.
std::vector<int> nodes_of_pages(const void* data, std::size_t bytes);

/// Whether every page of [data, data + bytes) is mapped and on `node`.
::testing::AssertionResult is_on_node(const void* data, std::size_t bytes, int node);

/// What the thread in one slot of an executor saw while all slots' threads were at work.
struct SlotReport {
  bool came = false;
  bool is_caller = false;
  int domain = -1;
  int cpu = -1;             ///< where it ran
  int allowed_cpus = 0;     ///< of its affinity mask
  bool is_on_seat = false;  ///< the mask is its seat alone
  const std::byte* scratch = nullptr;
};
/// Runs one task for each slot; none ends before all have begun. Each thread fills its scratch.
std::vector<SlotReport> meet(scheduler::Executor& executor, std::size_t scratch_bytes);

}  // namespace kumiko::test
