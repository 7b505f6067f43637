// SPDX-License-Identifier: Apache-2.0
// Contexts of the programs that call the library as a user does.
#pragma once

#include <kumiko/attention.h>

#include <string>

namespace kumiko::bench {

/// On the first `threads` cores. One context per ISA and thread count for the whole process, as the
/// documentation tells users to do.
Status context_for(const std::string& isa, int threads, Context* context);

}  // namespace kumiko::bench
