// SPDX-License-Identifier: Apache-2.0
#include "scheduler/fork.h"

#include <pthread.h>

#include <atomic>

namespace kumiko::scheduler {
namespace {

std::atomic<unsigned> g_generation{0};

}  // namespace

unsigned fork_generation() noexcept {
  // Registered on the first call, when nothing exists yet that a fork could affect. It fails only when memory
  // is short; then forks go unnoticed.
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { g_generation.fetch_add(1, std::memory_order_relaxed); });
  return g_generation.load(std::memory_order_relaxed);
}

}  // namespace kumiko::scheduler
