// SPDX-License-Identifier: Apache-2.0
// The outcome of a call: a code, and a message that tells the caller what to change.
#pragma once

#include <string>
#include <utility>

namespace kumiko {

/// Numeric values are part of the C ABI (kumiko_status) and never change.
enum class Code : int {
  ok = 0,
  invalid_argument = 1,     ///< An argument is outside its documented domain.
  unsupported = 2,          ///< Well formed, but this build or this machine cannot do it.
  out_of_memory = 3,        ///< Memory could not be allocated; nothing was written.
  invalid_environment = 4,  ///< A KUMIKO_* variable does not parse or does not fit this machine.
  internal = 5,             ///< A defect of the library: please report it.
  queue_full = 6,           ///< A stream has as many open calls as it takes; nothing was submitted.
  cancelled = 7,            ///< A submitted call was cancelled before it started; nothing was written.
  communication = 8,        ///< A call of MPI failed, here or on another rank (distributed.h).
};

/// Outcome of every public call. `message` names the argument, its value and what was expected; empty when
/// ok.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  bool ok() const { return code_ == Code::ok; }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }

 private:
  Code code_ = Code::ok;
  std::string message_;
};

}  // namespace kumiko
