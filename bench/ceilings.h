// The cores and the read ceiling that a benchmark of so many threads is measured on and against.
#pragma once

#include <vector>

#include "bench/machine_peak.h"

namespace kumiko::bench {

/// The first `threads` of the cores that this process was started on.
std::vector<int> first_cores(int threads);

/// Over data_pool(), on those cores; one for the whole process.
ReadCeiling& read_ceiling(int threads);

}  // namespace kumiko::bench
