// SPDX-License-Identifier: Apache-2.0
// Contexts by description, made once per process.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/attention.h"
#include "tests/support/host.h"

namespace kumiko::test {

/// A machine of `cores` cores in one domain: thread counts above the host's need a topology that has them.
std::string flat_machine(int cores);

/// The context of these options. Fails the running test and returns an empty context when it cannot be made.
Context context_of(const ContextOptions& options);
Context context_of(const std::string& isa, const std::string& executor);

/// gtest names: the parameter itself.
struct StringName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param;
  }
};

}  // namespace kumiko::test
