// SPDX-License-Identifier: Apache-2.0
// Calls that only convert rows: quantize_rows, pack_key_pages and unpack_key_pages, and perhaps one fault.
#pragma once

#include <kumiko/attention_c.h>

#include "tests/fuzz/input.h"

namespace kumiko::fuzz {

/// The calls on `own`, and the same bytes on `other` (may be null) and `reference`.
void fuzz_rows(Input& input, const kumiko_context* own, const kumiko_context* other,
               const kumiko_context* reference);

}  // namespace kumiko::fuzz
