// SPDX-License-Identifier: Apache-2.0
// Contexts by description, made once per process.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "runtime/attention.h"
#include "tests/support/host.h"

namespace kumiko::test {

/// A machine of `cores` cores in one domain, for more threads than the host has cores.
std::string flat_machine(int cores);

/// A context with these options. On failure fails the running test and returns an empty context.
Context context_of(const ContextOptions& options);
Context context_of(const std::string& isa, const std::string& executor);

/// A context of this executor with so many threads, on a machine that has as many cores. Not shared.
Context own_context(const std::string& executor, int threads);

/// Machines of one core, of three, and of two domains with two cores each.
std::vector<Context> contexts_of(const std::string& isa);

/// gtest names: the parameter itself.
struct StringName {
  template <class Info>
  std::string operator()(const Info& info) const {
    return info.param;
  }
};

}  // namespace kumiko::test
