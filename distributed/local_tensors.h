// SPDX-License-Identifier: Apache-2.0
// A check of libkumiko's (runtime/validate.cpp): no header of it is installed.
#pragma once

#include <kumiko/attention.h>

namespace kumiko {

/// The tensors of a rank as they lie in its memory. The calls that compute see copies of them.
KUMIKO_API Status validate_tensors(const AttentionArgs& args);

}  // namespace kumiko
