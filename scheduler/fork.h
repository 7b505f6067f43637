// SPDX-License-Identifier: Apache-2.0
// fork() copies memory and one thread. Code that owns threads or locks has to know whether it runs in the
// child.
#pragma once

namespace kumiko::scheduler {

/// Changes in a forked child, to tell what was made before the fork from what was made after it. Counts
/// fork(), not the bare system call and not vfork().
unsigned fork_generation() noexcept;

}  // namespace kumiko::scheduler
