// SPDX-License-Identifier: Apache-2.0
// Gradients of a small call of attention, planned and in one call, and perhaps one fault.
#pragma once

#include <kumiko/attention_c.h>

#include "tests/fuzz/input.h"

namespace kumiko::fuzz {

/// The call on `own`, the same bytes by a plan and on `other` (may be null). The forward call is made on
/// `reference`.
void fuzz_backward(Input& input, const kumiko_context* own, const kumiko_context* other,
                   const kumiko_context* reference);

}  // namespace kumiko::fuzz
