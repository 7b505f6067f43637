// SPDX-License-Identifier: Apache-2.0
// fork() copies memory and one thread. Code that owns threads or locks has to know whether it runs in the
// child.
#pragma once

#include <mutex>

namespace kumiko::scheduler {

/// Changes in a forked child, to tell what was made before the fork from what was made after it. Counts
/// fork(), not the bare system call and not vfork().
unsigned fork_generation() noexcept;

/// Locks of the process that a forked child uses, too: fork() waits until no other thread holds one. A thread
/// that takes several takes them in this order.
enum class ProcessLock { default_context, openmp_start, traces };
std::mutex& mutex_of(ProcessLock lock) noexcept;

}  // namespace kumiko::scheduler
