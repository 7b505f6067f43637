// The runtime behind a Context: what was asked for, the machine, the threads.
#pragma once

#include <memory>

#include "kernels/pipelines/pipeline.h"
#include "runtime/attention.h"
#include "runtime/config.h"
#include "runtime/trace.h"
#include "scheduler/executor.h"

namespace kumiko {

struct [[gnu::visibility("hidden")]] Context::Impl {
  Config config;
  scheduler::Topology topology;
  kernels::Isa isa = kernels::Isa::reference;
  int cgroup_limit = 0;            ///< CPUs; 0: none
  std::unique_ptr<Tracer> tracer;  ///< nullptr: not wanted
  std::unique_ptr<scheduler::Executor> executor;

  std::string describe() const;
};

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
