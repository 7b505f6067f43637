// SPDX-License-Identifier: Apache-2.0
// The functions behind the rows of executors.cpp: one file and one row each.
#pragma once

#include "scheduler/executor.h"

namespace kumiko::scheduler {

std::unique_ptr<Executor> create_openmp_executor(const ExecutorOptions& options, std::string& error);
std::unique_ptr<Executor> create_tbb_executor(const ExecutorOptions& options, std::string& error);
std::unique_ptr<Executor> create_serial_executor(const ExecutorOptions& options, std::string& error);

/// Binds the calling thread to one CPU. A CPU that has gone offline meanwhile is not an error: an unbound
/// worker is slower, not wrong.
void bind_this_thread(int os_cpu) noexcept;

}  // namespace kumiko::scheduler
