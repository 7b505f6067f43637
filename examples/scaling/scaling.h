// SPDX-License-Identifier: Apache-2.0
// The whole program behind strong_scaling and weak_scaling.
#pragma once

#include "options.h"

namespace scaling {

/// Exit status 0; 1 if a call fails or a file cannot be written; 2 for wrong options.
int run(Mode mode, int argc, char** argv);

}  // namespace scaling
