// SPDX-License-Identifier: Apache-2.0
// What the tests of softmax_pv and of fused_gemm share.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/attention.h"
#include "tests/runtime/case.h"

namespace kumiko::test {

/// Ragged lengths, odd dims, groups, masks and layouts in rotation; few on an emulated processor.
std::vector<Case> products_cases();

/// A fault: an error with the argument's name and its value, and nothing written.
template <class Args>
struct Fault {
  const char* argument;
  const char* value;
  std::function<void(Args&)> commit;
  Code code = Code::invalid_argument;
};

void expect_error(const Status& status, Code code, const std::string& argument, const std::string& value);

/// A small problem to commit faults on.
Case faulty();

}  // namespace kumiko::test
