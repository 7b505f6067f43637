// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <kumiko/cost_model.h>

namespace kumiko::distributed {

/// invalid_argument, with the name of the field, its value and what was expected, if forecast() cannot take
/// these.
Status check_model(const Work& work, int ranks, const Rank& rank, const Link& link, Algorithm algorithm);

}  // namespace kumiko::distributed
