// SPDX-License-Identifier: Apache-2.0
// Checks of every call: its status, its error, and that it prints nothing. A failure ends the process with a
// report.
#pragma once

#include <kumiko/attention_c.h>

#include <string>

#include "tests/fuzz/problem.h"

namespace kumiko::fuzz {

/// During its lifetime a report shows this problem.
class Reported {
 public:
  explicit Reported(const Problem* problem);
  ~Reported();
  Reported(const Reported&) = delete;
};

void require(bool holds, const char* what, const std::string& detail = "");
/// Returns `status` after checking the error message.
kumiko_status checked(kumiko_status status, const char* call);

/// Keeps standard error for reports. To be called before libFuzzer closes it.
void keep_console();
void watch_output();
void require_nothing_printed();

}  // namespace kumiko::fuzz
