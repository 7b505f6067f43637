// SPDX-License-Identifier: Apache-2.0
#include "scheduler/handover.h"

#include <atomic>
#include <cstdint>

#include "scheduler/task_bag.h"

namespace kumiko::scheduler {
namespace {

// One for the process: if it were on the heap or a stack, ThreadSanitizer would have to see how it is itself
// handed over.
alignas(kLineBytes) std::atomic<std::uint32_t> g_turnstile{0};

}  // namespace

void hand_over() noexcept {
  g_turnstile.fetch_add(1, std::memory_order_acq_rel);
}

void take_over() noexcept {
  g_turnstile.load(std::memory_order_acquire);
}

}  // namespace kumiko::scheduler
