// SPDX-License-Identifier: Apache-2.0
// The runtime behind a Context: what was asked for, the machine, the threads.
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
  std::unique_ptr<Tracer> tracer;  ///< nullptr: not wanted
  std::unique_ptr<scheduler::Executor> executor;
  /// [domains] Memory for split states, by domain; empty where there is one domain or no placement.
  std::deque<scheduler::ArenaPool> split_states;

  const unsigned fork_generation = scheduler::fork_generation();

  ~Impl();
  /// The process that made it has been forked, and this is the child: threads are missing, locks may be held.
  bool is_from_before_fork() const {
    return fork_generation != scheduler::fork_generation();
  }
  std::string describe() const;
};

/// What stands behind the handles that a user holds.
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

/// The error of every call in a child on a context of its parent.
Status forked_error();
/// Whether calls may be made on it: it is not empty, nor from before a fork.
Status check_context(const Context& context);

/// Every public entry: runs `body` in the default floating-point state (the caller's rounding mode must not
/// reach a plan's scale, nor its unmasked traps our arithmetic) and restores the caller's, turning bad_alloc
/// into out_of_memory and anything else into internal: nothing is thrown across the API.
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
    } catch (...) {  // no memory for what it says
    }
  } catch (...) {
  }
  return {Code::internal, "exception"};  // short enough to need no memory
}

}  // namespace kumiko
