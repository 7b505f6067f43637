// SPDX-License-Identifier: Apache-2.0
// How the tokens of kv_append are cut into tasks.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/kv_append.h"
#include "scheduler/policy.h"

namespace kumiko {

struct AppendTasks {
  std::vector<std::int64_t> begin;     ///< Of each task its first token, then the number of tokens.
  std::vector<scheduler::Task> tasks;  ///< At home in the domain of their pages.
};

/// Tasks of about `task_tokens` tokens. The tokens of a task that have a slot have pages of one domain, if
/// `by_domain`.
AppendTasks cut_tokens(const KvAppendArgs& args, std::int64_t task_tokens, bool by_domain);

/// Where a piece of a task that would end before `token` ends: a tile of keys is written by one thread, at
/// once.
std::int64_t piece_end(const KvAppendArgs& args, std::int64_t token);

/// Whether a token goes into the tile of the token before it, right behind it.
bool continues_tile(const KvAppendArgs& args, std::int64_t token);

}  // namespace kumiko
