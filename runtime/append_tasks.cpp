// SPDX-License-Identifier: Apache-2.0
#include "runtime/append_tasks.h"

#include <algorithm>

#include "kernels/key_tiles/key_tiles.h"

namespace kumiko {
namespace {

std::int64_t token_count(const KvAppendArgs& args) {
  return args.key.shape[0] * args.key.shape[2];
}

}  // namespace

bool continues_tile(const KvAppendArgs& args, std::int64_t token) {
  const std::int64_t slot = args.slot_mapping[token];
  return slot >= 0 && slot % kernels::kTileKeys != 0 && slot == args.slot_mapping[token - 1] + 1;
}

std::int64_t piece_end(const KvAppendArgs& args, std::int64_t token) {
  const std::int64_t tokens = token_count(args);
  while (args.key_layout == KeyLayout::tiles_of_16 && token < tokens && continues_tile(args, token)) ++token;
  return std::min(token, tokens);
}

AppendTasks cut_tokens(const KvAppendArgs& args, std::int64_t task_tokens, bool by_domain) {
  const std::int64_t tokens = token_count(args), page_size = args.key_cache.shape[2];
  AppendTasks made;
  for (std::int64_t begin = 0; begin < tokens;) {
    std::int64_t end = piece_end(args, begin + task_tokens);
    std::int32_t home = -1;
    bool has_home = false;
    for (std::int64_t token = begin; by_domain && token < end; ++token) {
      const std::int64_t slot = args.slot_mapping[token];
      if (slot < 0) continue;  // goes with its neighbours
      const std::int32_t domain = args.page_domains[slot / page_size];
      if (has_home && domain != home) end = token;
      home = has_home ? home : domain;
      has_home = true;
    }
    made.begin.push_back(begin);
    made.tasks.push_back({end - begin, static_cast<std::int32_t>(made.tasks.size()), home});
    begin = end;
  }
  made.begin.push_back(tokens);
  return made;
}

}  // namespace kumiko
