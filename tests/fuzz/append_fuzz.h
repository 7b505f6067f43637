// SPDX-License-Identifier: Apache-2.0
// A call of kv_append: tokens that lie anywhere in pages, and perhaps one fault.
#pragma once

#include <kumiko/attention_c.h>

#include "tests/fuzz/input.h"

namespace kumiko::fuzz {

/// The call on `own`, and the same bytes on `other` (may be null) and `reference`.
void fuzz_append(Input& input, const kumiko_context* own, const kumiko_context* other,
                 const kumiko_context* reference);

}  // namespace kumiko::fuzz
