// SPDX-License-Identifier: Apache-2.0
// The runtime behind a Context: settings, machine, threads.
#pragma once

#include <deque>
#include <memory>

#include "kernels/pipelines/pipeline.h"
#include "runtime/attention.h"
#include "runtime/config.h"
#include "runtime/core_tuning.h"
#include "runtime/trace.h"
#include "scheduler/arena_pool.h"
#include "scheduler/executor.h"
#include "scheduler/fork.h"

namespace kumiko {

struct [[gnu::visibility("hidden")]] Context::Impl {
  Config config;
  scheduler::Topology topology;
  kernels::Isa isa = kernels::Isa::reference;
  CoreTuning core;                 ///< for `isa`
  int cgroup_limit = 0;            ///< CPUs; 0: none
  std::unique_ptr<Tracer> tracer;  ///< nullptr: no trace
  std::unique_ptr<scheduler::Executor> executor;
  /// [domains] Memory for split states; empty if there is one domain or no placement.
  std::deque<scheduler::ArenaPool> split_states;

  const unsigned fork_generation = scheduler::fork_generation();

  ~Impl();
  /// This process is a forked child of the one that made the context: threads are missing, locks may be held.
  bool is_from_before_fork() const {
    return fork_generation != scheduler::fork_generation();
  }
  std::string describe() const;
};

/// The implementation behind a user's handle.
struct Internals {
  template <class Handle>
  static auto& of(Handle& handle) {
    return handle.impl_;
  }
};
inline const std::shared_ptr<Context::Impl>& impl_of(const Context& context) {
  return Internals::of(context);
}
inline const std::shared_ptr<Plan::Impl>& impl_of(const Plan& plan) {
  return Internals::of(plan);
}

/// The error of every call in a forked child on a context of its parent.
Status forked_error();
/// An error if the context is empty or from before a fork.
Status check_context(const Context& context);

/// Runs body(context, task, slot) for each of `tasks` on the threads of `runtime`, assigned by `policy`, each
/// with so much scratch. Errors: out_of_memory.
Status run_tasks(const Context::Impl& runtime, std::span<const scheduler::Task> tasks,
                 const scheduler::PolicyRow& policy, decltype(scheduler::Job::body) body, void* context,
                 std::size_t scratch_bytes);
/// `count` tasks of one cost, which may run anywhere. `of`: the argument that makes so many. Errors:
/// unsupported (more than kMaxTasks), out_of_memory.
Status run_equal_tasks(const Context::Impl& runtime, const char* of, std::int64_t count,
                       decltype(scheduler::Job::body) body, void* context, std::size_t scratch_bytes);
/// An error if `of` makes more than kMaxTasks.
Status check_tasks(const char* of, std::int64_t count);

/// Wraps every public call. Runs `body` in the default floating-point state and then restores the caller's,
/// whose rounding mode must not change a plan's scale and whose unmasked traps must not fire in our
/// arithmetic. bad_alloc becomes out_of_memory, any other exception internal: no call throws.
template <class Body>
Status guarded(Body&& body) noexcept {
  const kernels::FloatState float_state;
  try {
    return body();
  } catch (const std::bad_alloc&) {
    return {Code::out_of_memory, "out of memory"};
  } catch (const std::exception& e) {
    try {
      return {Code::internal, e.what()};
    } catch (...) {  // no memory for the message
    }
  } catch (...) {
  }
  return {Code::internal, "exception"};  // short enough to need no memory
}

}  // namespace kumiko
