// SPDX-License-Identifier: Apache-2.0
#include "scheduler/executors.h"

#include <sched.h>

#include <exception>
#include <new>

namespace kumiko::scheduler {
namespace {

using CreateFunction = std::unique_ptr<Executor> (*)(const ExecutorOptions&, std::string&);

// The checks that every executor needs, and the promise that nothing but bad_alloc is thrown.
template <CreateFunction create>
std::unique_ptr<Executor> checked(const ExecutorOptions& options, std::string& error) {
  if (options.num_threads < 1) {
    error = "num_threads: " + std::to_string(options.num_threads) + "; expected at least 1";
    return nullptr;
  }
  if (options.topology.num_cores() == 0) {
    error = "topology: no cores; expected at least one domain with a core";
    return nullptr;
  }
  try {
    return create(options, error);
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& failure) {
    error = std::to_string(options.num_threads) + " threads cannot be created (" + failure.what() +
            "); expected no more than the system grants";
    return nullptr;
  }
}

constexpr ExecutorRow kExecutors[] = {
    {"openmp", checked<create_openmp_executor>},
    {"tbb", checked<create_tbb_executor>},
    {"serial", checked<create_serial_executor>},
};

}  // namespace

std::span<const ExecutorRow> executors() {
  return kExecutors;
}

const ExecutorRow* find_executor(const std::string& name) {
  for (const ExecutorRow& row : kExecutors) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

std::vector<int> Executor::workers_per_domain() const {
  std::vector<int> workers(num_domains_, 0);
  for (const Seat& seat : seats_) ++workers[seat.domain];
  return workers;
}

void bind_this_thread(int os_cpu) noexcept {
  cpu_set_t* set = CPU_ALLOC(os_cpu + 1);
  if (set == nullptr) return;
  const std::size_t bytes = CPU_ALLOC_SIZE(os_cpu + 1);
  CPU_ZERO_S(bytes, set);
  CPU_SET_S(os_cpu, bytes, set);
  sched_setaffinity(0, bytes, set);
  CPU_FREE(set);
}

}  // namespace kumiko::scheduler
