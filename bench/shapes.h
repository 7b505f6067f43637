// SPDX-License-Identifier: Apache-2.0
// The problems that attention_bench measures: one table, one row each.
#pragma once

#include <vector>

#include "bench/problem.h"

namespace kumiko::bench {

enum class Limit {
  compute,  ///< Compared with the FMA peak.
  either,   ///< Decode: compared with the FMA peak or the read loop, whichever takes longer.
};

struct Case {
  Shape shape;
  Limit limit;
};

const std::vector<Case>& cases();

/// Decode steps of a server, which serving_bench measures with keys and values dense and in pages.
const std::vector<Case>& server_cases();

/// Those that it also measures with keys in tiles.
const std::vector<Case>& tile_cases();
/// Calls whose queries and keys have values that int8 represents exactly.
const std::vector<Case>& int8_cases();

/// A decode step of multi-head latent attention (DeepSeek-V2 and later): `heads` query heads of 576 over 4096
/// latents, whose first 512 elements are the values.
Shape latent_decode(DataType type, std::int64_t heads);

/// A server's step with a prompt's chunk of 512 queries at 2048 keys and 63 decodes of 128 to 8192 keys,
/// packed, in pages of 128 keys, [pages, page_size, heads, dim].
Shape mixed_step(DataType type);

/// A prefill of 4096 queries and keys, 8 heads of 128: dense, or half of the 64 x 64 blocks of keys listed.
Shape block_sparse(DataType type, bool is_dense);

/// The last 4096 queries of a prompt of 32768, causal, with a window of 512, 8 heads of 128, in pages of 128
/// keys [pages, page_size, heads, dim].
Shape window_in_pages(DataType type);

/// A decode over 4096 keys, 32 query and 8 KV heads of 128: one token, or a tree of 64 speculative ones.
Shape token_tree(DataType type, bool is_one_token);

/// Decodes of 16 sequences of 4608 keys, in pages [pages, page_size, heads, dim]; the first 4096 lie in the
/// same pages, or each sequence has its own.
Shape shared_prefix(DataType type, std::int64_t page_keys, bool is_shared);

}  // namespace kumiko::bench
