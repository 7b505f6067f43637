// SPDX-License-Identifier: Apache-2.0
// Calls of one thread whose time depends on a number of the tuning: attention, or the appending of tokens.
#pragma once

#include <kumiko/attention.h>
#include <kumiko/kv_append.h>

#include <cstdint>
#include <span>
#include <vector>

namespace kumiko::tune {

struct Shape {
  const char* name;
  std::int64_t q_heads, kv_heads, q_len, kv_len, head_dim;
  DataType type = DataType::f32;
  bool is_causal = false;
  std::int64_t window_left = -1;
  Pipeline pipeline = Pipeline::automatic;
  bool is_apart = false;  ///< [seq, heads, dim]: other heads' rows lie between a head's.
  bool appends =
      false;  ///< kv_append of q_len tokens, rotated, into a cache of kv_len; also [seq, heads, dim].
};

/// What a workload calls: a plan, or kv_append in a context.
struct Call {
  Pipeline pipeline = Pipeline::automatic;
  Plan plan{};
  Context context{};
};

class Workload {
 public:
  /// Holds as many copies of keys and values as fit into `cache_bytes`, at least one, and calls take the
  /// copies in turn: a decode step then reads from memory, as in a server.
  Workload(const Shape& shape, std::size_t cache_bytes);

  const Shape& shape() const { return shape_; }
  /// Makes what seconds() calls. `pipeline` need not be the shape's.
  Status prepare(const Context& context, Pipeline pipeline, Call* call) const;
  /// Mean CPU time of a call, over calls of about `window` seconds. answer() then is the last one's.
  Status seconds(const Call& call, double window, double* mean);
  /// The bytes of the output; where the shape appends, those of the queries, keys and values that one more
  /// call wrote.
  const std::vector<std::byte>& answer() const { return shape_.appends ? appended_ : out_; }

 private:
  AttentionArgs args(Pipeline pipeline, std::size_t copy) const;
  KvAppendArgs append_args(std::size_t copy);
  Status append_once(const Call& call);
  Shape shape_;
  std::size_t kv_bytes_ = 0, copies_ = 1, next_ = 0;
  std::vector<std::byte> q_, out_;
  std::vector<std::byte> memory_;  ///< of cache_
  std::span<std::byte> cache_;     ///< [copies][K, V], aligned to a cache line for non-temporal stores
  std::vector<std::byte> tokens_;  ///< new keys, values and queries; only where the shape appends
  std::vector<std::int64_t> slots_;
  std::vector<std::byte> appended_;  ///< [query_out, a copy of K and V]
};

}  // namespace kumiko::tune
