// SPDX-License-Identifier: Apache-2.0
// How the tokens of kv_append are cut into tasks.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/kv_append.h"
#include "scheduler/policy.h"

namespace kumiko {

struct AppendTasks {
  std::vector<std::int64_t> begin;     ///< The first token of each task, then the number of tokens.
  std::vector<scheduler::Task> tasks;  ///< At home in the domain of their pages.
};

/// Tasks of about `task_tokens` tokens. With `by_domain` all tokens of a task that have a slot have it in
/// pages of one domain.
AppendTasks cut_tokens(const KvAppendArgs& args, std::int64_t task_tokens, bool by_domain);

/// Where a piece of tokens that was to end before `token` ends: there, or at the end of the tile of keys that
/// it would cut, because one thread writes a tile in one go.
std::int64_t piece_end(const KvAppendArgs& args, std::int64_t token);

/// Whether a token goes right behind the token before it, into the same tile.
bool continues_tile(const KvAppendArgs& args, std::int64_t token);

}  // namespace kumiko
