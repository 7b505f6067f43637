// SPDX-License-Identifier: Apache-2.0
// A server at random: requests come, share prefixes, grow by chunks, single and speculative tokens, and go,
// in pages of one pool. Beside the pages stands a plain model: what each request has said, token by token.
#pragma once

#include <cstdint>
#include <memory>
#include <ostream>
#include <vector>

#include "runtime/attention.h"
#include "runtime/kv_append.h"
#include "tests/runtime/case.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {

struct WalkShape {
  std::int64_t q_heads = 4, kv_heads = 2, head_dim = 16, v_head_dim = 16;
  DataType type = DataType::f32;  ///< of queries, keys and values
  std::int64_t page_keys = 16, pages = 160;
  bool key_tiles = false;   ///< needs page_keys of a multiple of 16
  bool heads_last = false;  ///< pages are [pages, keys, heads, dim]
  bool page_lists = false;  ///< kv_indptr
  std::int64_t window_left = -1;
  bool sinks = false;
  std::int64_t longest_prompt = 900, longest_chunk = 60;
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& os, const WalkShape& shape);

class ServerWalk {
 public:
  explicit ServerWalk(const WalkShape& shape);

  /// Requests come and go, some forget speculative tokens, and each that goes on says new ones.
  void next_step();
  /// New keys and values into their pages; then every key in use is read back and compared with the model.
  void append(const Context& context);
  /// The step's attention by a new plan, by the last step's, updated, if its queries are packed alike, or by
  /// one call. Rows against fp64 over the model, and with the bits of each request's dense call.
  void attend(const Context& context);
  /// How often it happened, over the walk so far.
  struct Events {
    int updates = 0, forks = 0, rejected = 0, finished = 0, shared_groups = 0, mixed_steps = 0;
  };
  const Events& events() const { return events_; }

 private:
  struct Request {
    std::vector<std::int32_t> pages;
    std::vector<std::uint64_t> tokens;  ///< names; the numbers of a token follow from its name
    std::int64_t prompt_left = 0, new_tokens = 0;
    std::int64_t kept() const { return static_cast<std::int64_t>(tokens.size()) - new_tokens; }
  };
  enum class Row { query, key, value };

  void admit();
  void fork();
  void finish(std::size_t index);
  void reject(Request& request);
  bool grow(Request& request, std::int64_t count);
  void release(std::int32_t page);
  std::int64_t dim_of(Row row) const;
  std::vector<float> row_of(std::uint64_t token, Row row) const;
  std::size_t place(Row row, std::int64_t page, std::int64_t head, std::int64_t key, std::int64_t dim) const;
  void poison_key(std::int32_t page, std::int64_t key);
  void copy_key(std::int32_t from, std::int32_t to, std::int64_t key);
  void expect_pages_hold_the_model() const;
  AttentionArgs step_args();
  void check_request(const Context& context, const AttentionArgs& step, std::size_t index) const;
  Tensor cache(Row row) const;

  /// A tensor in f32 with rounded elements, and in the type.
  struct Rounded {
    GuardedTensor wide;
    NarrowTensor narrow;
    DataType type;
    Rounded(const Shape& shape, Layout layout, DataType type);
    void store() const;
    ConstTensor input() const { return type == DataType::f32 ? wide.input() : narrow.input(); }
  };
  /// Rows of tokens [first, last) of each request, one after the other.
  Rounded rows_of_step(Row row) const;

  WalkShape shape_;
  Random random_;
  GuardedBuffer key_cache_, value_cache_;
  std::vector<std::int32_t> free_, users_;  ///< pages that nobody has; of each page its requests
  std::vector<Request> requests_;
  std::uint64_t next_token_ = 1;
  std::vector<float> sinks_;

  // Of the step.
  std::vector<std::int32_t> cu_seqlens_q_, lengths_, table_, indptr_;
  std::unique_ptr<Rounded> query_;
  GuardedTensor out_;
  GuardedLse lse_;
  Plan plan_;
  std::vector<std::int32_t> planned_queries_;
  Events events_;
};

}  // namespace kumiko::test
