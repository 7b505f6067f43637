// SPDX-License-Identifier: Apache-2.0
// No threads of its own: callers run their jobs themselves, concurrency() of them at a time.
#include "scheduler/executors.h"
#include "scheduler/worker_pool.h"

namespace kumiko::scheduler {
namespace {

class SerialExecutor final : public Executor {
 public:
  explicit SerialExecutor(const ExecutorOptions& options)
      : Executor(options.topology, seat_workers(options.topology, options.num_threads, options.bind)),
        pool_(options, seats_) {}

  const char* name() const override { return "serial"; }
  bool reserve(std::size_t bytes) override { return pool_.reserve(bytes); }
  bool run(const Job& job) override { return pool_.run(job); }

 private:
  WorkerPool pool_;
};

}  // namespace

std::unique_ptr<Executor> create_serial_executor(const ExecutorOptions& options, std::string&) {
  return std::make_unique<SerialExecutor>(options);
}

}  // namespace kumiko::scheduler
