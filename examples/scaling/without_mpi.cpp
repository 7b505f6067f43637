// SPDX-License-Identifier: Apache-2.0
#include <iostream>

#include "mpi_ranks.h"

namespace scaling {

int run_mpi_ranks(Mode, const Options&) {
  std::cerr << "--mpi: built without MPI; expected KUMIKO_BUILD_MPI=ON\n";
  return 1;
}

}  // namespace scaling
