// SPDX-License-Identifier: Apache-2.0
// Where results go: the table to standard output, the JSON into the file of --json.
#pragma once

#include <string>

#include "options.h"

namespace scaling {

/// To call before the work. Exit status 0; 1, after a message, if --json cannot be written.
int check_results(const Options& options);

/// Exit status 0; 1, after a message, if either cannot be written.
int write_results(const Options& options, const std::string& table, const std::string& json);

}  // namespace scaling
