// SPDX-License-Identifier: Apache-2.0
// A stream and a few calls: submitted, cancelled, waited for and dropped in any order.
#pragma once

#include <kumiko/attention_c.h>

#include "tests/fuzz/input.h"

namespace kumiko::fuzz {

void fuzz_stream(Input& input, const kumiko_context* context);

}  // namespace kumiko::fuzz
