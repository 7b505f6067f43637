// SPDX-License-Identifier: Apache-2.0
// fork() copies memory and one thread. Whoever owns threads or locks has to know on which side it is.
#pragma once

namespace kumiko::scheduler {

/// Changes in a forked child, so that what was made before the fork can be told from what was made since.
/// Counts fork(), not the bare system call and not vfork().
unsigned fork_generation() noexcept;

}  // namespace kumiko::scheduler
