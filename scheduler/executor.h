// SPDX-License-Identifier: Apache-2.0
// Threads that carry out an Assignment. Any number of threads may call run() at once; together they never
// keep more than concurrency() threads running.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "policy.h"
#include "topology.h"

namespace kumiko::scheduler {

/// A seat's private scratch. Exactly one running thread owns a slot at a time.
struct Slot {
  int index = 0;   ///< 0..concurrency-1
  int domain = 0;  ///< Index into Topology::domains.
  std::byte* scratch =
      nullptr;  ///< At least Job::scratch_bytes, 64-byte aligned, first touched by its owner.
};

/// One bag of independent tasks. Lives in the caller until run() returns. A body must not call run() of its
/// own executor: it holds a slot already and could wait for it for ever.
struct Job {
  const Assignment* assignment = nullptr;
  void (*body)(void* context, std::int32_t task, const Slot& slot) noexcept = nullptr;
  void* context = nullptr;
  std::size_t scratch_bytes = 0;
};

/// Longer than the gap between the attention calls of two layers with little work between them, and about the
/// cost of a futex wake-up on a busy machine: spinning never loses more than sleeping would have.
inline constexpr std::chrono::microseconds kDefaultSpin{25};

struct ExecutorOptions {
  Topology topology;
  int num_threads = 1;
  Bind bind = Bind::close;
  std::chrono::microseconds spin = kDefaultSpin;  ///< How long a thread without work spins before it sleeps.
  std::size_t stack_bytes = 0;  ///< Stack of an OpenMP thread, as the program has set it; 0: the default.
};

class Executor {
 public:
  virtual ~Executor() = default;
  virtual const char* name() const = 0;
  int concurrency() const { return static_cast<int>(seats_.size()); }
  const std::vector<Seat>& seats() const { return seats_; }
  /// How many seats each domain of the topology has, as a policy takes it.
  std::vector<int> workers_per_domain() const;

  /// Makes sure that every slot has `bytes` of scratch for its next owner, so that run() need not allocate.
  /// false: not enough memory, nothing changed. Never waits for running jobs.
  virtual bool reserve(std::size_t bytes) = 0;

  /// Runs every task of the job once and returns when all are done. Tasks of one domain start in the
  /// assignment's order. Does not allocate once reserve(job.scratch_bytes) has succeeded (oneTBB itself
  /// allocates a few bytes per invitation). The calling thread's affinity and floating-point state are
  /// unchanged on return. false: too little was reserved, memory is short, and no task has run.
  virtual bool run(const Job& job) = 0;

 protected:
  Executor(const Topology& topology, std::vector<Seat> seats)
      : seats_(std::move(seats)), num_domains_(topology.domains.size()) {}

  std::vector<Seat> seats_;
  std::size_t num_domains_;
};

struct ExecutorRow {
  const char* name;
  /// nullptr and a sentence in `error` when threads cannot be created or num_threads is below 1. Throws
  /// bad_alloc.
  std::unique_ptr<Executor> (*create)(const ExecutorOptions&, std::string& error);
};
/// The first row is the default.
std::span<const ExecutorRow> executors();
const ExecutorRow* find_executor(const std::string& name);

}  // namespace kumiko::scheduler
