// SPDX-License-Identifier: Apache-2.0
// What holds of every call: its status, its error, and that it prints nothing. What does not hold ends the
// process with a report.
#pragma once

#include <kumiko/attention_c.h>

#include <string>

#include "tests/fuzz/problem.h"

namespace kumiko::fuzz {

/// While it lives a report shows this problem.
class Reported {
 public:
  explicit Reported(const Problem* problem);
  ~Reported();
  Reported(const Reported&) = delete;
};

void require(bool holds, const char* what, const std::string& detail = "");
/// `status`, after a look at the error it comes with.
kumiko_status checked(kumiko_status status, const char* call);

/// Before libFuzzer closes its own: where reports go.
void keep_console();
void watch_output();
void require_nothing_printed();

}  // namespace kumiko::fuzz
