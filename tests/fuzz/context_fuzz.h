// SPDX-License-Identifier: Apache-2.0
// Calls of the C ABI that are of no problem: contexts with any options, memory of domains, null pointers,
// traces.
#pragma once

#include <kumiko/attention_c.h>

#include "tests/fuzz/input.h"

namespace kumiko::fuzz {

/// A context with options from the input, on a small machine, or null where they are refused. Its memory for
/// domains is tried.
kumiko_context* make_any_context(Input& input);

/// Every call with each of its pointers null.
void fuzz_nulls(Input& input, kumiko_context* context);

/// A call of attention on `context`, which writes its trace to `file`.
void fuzz_trace(Input& input, const kumiko_context* context, const char* file);

}  // namespace kumiko::fuzz
