// SPDX-License-Identifier: Apache-2.0
// What the calls of the C ABI share: handles, and how a Status becomes a number and a message.
#pragma once

#include <exception>
#include <mutex>
#include <new>
#include <string>

#include "runtime/attention.h"
#include "runtime/attention_backward.h"
#include "runtime/attention_backward_c.h"
#include "runtime/attention_c.h"

struct kumiko_context {
  kumiko::Context context;
  std::string description;
};

struct kumiko_plan {
  kumiko::Plan plan;
  mutable std::mutex explaining;
  mutable std::string explanation;  // "": not computed since the plan was made or updated
};

struct kumiko_backward_plan {
  kumiko::BackwardPlan plan;
  mutable std::mutex explaining;
  mutable std::string explanation;  // "": not computed yet
};

namespace kumiko::c_abi {

/// Exported for libkumiko_mpi, like the functions with KUMIKO_API in convert_c.h.
KUMIKO_API const Context& context_of(const kumiko_context& handle);

/// Makes `message`, with fields named as in C, this thread's last error.
KUMIKO_API kumiko_status report(Code code, const char* message) noexcept;

/// Runs `body` (-> Status); its status or exception becomes the result and this thread's last error.
template <class Body>
kumiko_status guarded(Body&& body) noexcept {
  try {
    const Status status = body();
    return report(status.code(), status.message().c_str());
  } catch (const std::bad_alloc&) {
    return report(Code::out_of_memory, "out of memory");
  } catch (const std::exception& exception) {
    return report(Code::internal, exception.what());
  } catch (...) {
    return report(Code::internal, "an unknown exception reached the C ABI");
  }
}

}  // namespace kumiko::c_abi
