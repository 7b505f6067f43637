// SPDX-License-Identifier: Apache-2.0
// Tree masks and lists of key blocks from Python.
#pragma once

#include <kumiko/attention.h>

#include "tensors.h"

namespace kumiko::python {

/// uint8 [query positions, bytes]; `args` has the queries already.
void tree_mask_of(const Imported& tensor, AttentionArgs* args);
/// int32 [n + 1] or [q_heads, n + 1], and int32 [entries]; `args` has bsr_rows already.
void bsr_lists_of(const Imported& indptr, const Imported& indices, AttentionArgs* args);

}  // namespace kumiko::python
