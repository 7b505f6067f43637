// SPDX-License-Identifier: Apache-2.0
// A check that libkumiko exports (runtime/validate.cpp) and that no installed header declares.
#pragma once

#include <kumiko/attention.h>

namespace kumiko {

/// Checks the tensors of a rank as they lie in its memory. The calls that compute see copies of them.
KUMIKO_API Status validate_tensors(const AttentionArgs& args);

}  // namespace kumiko
