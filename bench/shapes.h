// SPDX-License-Identifier: Apache-2.0
// The problems that attention_bench measures: one table, one row each.
#pragma once

#include <vector>

#include "bench/problem.h"

namespace kumiko::bench {

enum class Limit {
  compute,  ///< Compared with the FMA peak.
  either,   ///< Decode: compared with that or the read loop, whichever takes longer.
};

struct Case {
  Shape shape;
  Limit limit;
};

const std::vector<Case>& cases();

/// Decode steps of a server, which serving_bench measures with keys and values dense and in pages.
const std::vector<Case>& server_cases();

}  // namespace kumiko::bench
