// SPDX-License-Identifier: Apache-2.0
// Signals belong to the program that uses the library.
#pragma once

namespace kumiko::scheduler {

/// Leaves the process's signals to the program's own threads: from here on this thread takes none, except
/// faults, which are delivered where they happen, and SIGPROF, so that profilers keep working.
void leave_signals_to_the_program() noexcept;

}  // namespace kumiko::scheduler
