// SPDX-License-Identifier: Apache-2.0
// strong_scaling and weak_scaling under mpirun: the same call on 1, 2, 4, ... of the ranks.
#pragma once

#include "options.h"

namespace scaling {

/// Exit status 0; 1 if a call fails or this build has no MPI.
int run_mpi_ranks(Mode mode, const Options& options);

}  // namespace scaling
