// SPDX-License-Identifier: Apache-2.0
// --simulate RxDxC: one call over more and more machines, predicted by the cost models of the plan and of the
// links.
#pragma once

#include "options.h"

namespace scaling {

/// Exit status as run().
int run_nodes(Mode mode, const Options& options);

}  // namespace scaling
