// SPDX-License-Identifier: Apache-2.0
#include "scheduler/fork.h"

#include <pthread.h>

#include <atomic>

namespace kumiko::scheduler {
namespace {

std::atomic<unsigned> g_generation{0};
constinit std::mutex g_locks[3];  // by ProcessLock

void before_fork() {
  for (std::mutex& lock : g_locks) lock.lock();
}
void after_fork() {
  for (std::mutex& lock : g_locks) lock.unlock();
}
void in_child() {
  after_fork();
  g_generation.fetch_add(1, std::memory_order_relaxed);
}

// Registered when the library is loaded: during a first call another thread might fork. This fails only when
// memory is short; then forks go unnoticed.
[[maybe_unused]] const int registered = pthread_atfork(before_fork, after_fork, in_child);

}  // namespace

unsigned fork_generation() noexcept {
  return g_generation.load(std::memory_order_relaxed);
}

std::mutex& mutex_of(ProcessLock lock) noexcept {
  return g_locks[static_cast<int>(lock)];
}

}  // namespace kumiko::scheduler
