// SPDX-License-Identifier: Apache-2.0
// The calls of one rank over a block of keys in a buffer: the rank's rows of every sequence are passed as
// packed sequences, and the keys as pages of 512.
#pragma once

#include <kumiko/key_parts.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "distributed/block_plan.h"
#include "distributed/distributed.h"

namespace kumiko::distributed {

std::int64_t bytes_of(DataType type);

/// How a page lies in a buffer: head after head, the keys of each, then its values, then the scales of its
/// keys. So some heads can be computed while the rest of a block is still on its way.
struct PageLayout {
  std::int64_t kv_heads = 0, head_dim = 0, v_head_dim = 0;
  std::int64_t key_bytes = 0, value_bytes = 0;  ///< Of an element.
  bool has_scales = false;

  explicit PageLayout(const AttentionArgs& args);
  std::int64_t keys_size() const { return kKeysPerSplit * head_dim * key_bytes; }
  std::int64_t values_size() const { return kKeysPerSplit * v_head_dim * value_bytes; }
  std::int64_t scales_size() const { return has_scales ? kKeysPerSplit * 4 : 0; }
  std::int64_t head_size() const { return keys_size() + values_size() + scales_size(); }
  std::int64_t size() const { return kv_heads * head_size(); }
};

/// KV heads [begin, end).
struct HeadRange {
  std::int64_t begin = 0, end = -1;
};

class SequenceCall {
 public:
  /// `args` have passed check_sequence_parallel().
  SequenceCall(const SequenceParallelArgs& args, const BlockPlan& plan, int rank);

  /// Checks and sizes of all calls, over buffers that are still to come. Errors: those of
  /// attention_forward().
  Status prepare(const Context& context, const std::byte* buffer, std::int64_t lanes);
  std::int64_t lane_pages() const { return std::max<std::int64_t>(plan_.most_pages(), 1); }
  std::int64_t state_floats() const { return state_floats_; }
  bool has_rows() const { return !calls_.empty(); }

  /// Copies the owner's rows of a message to its pages of the buffer.
  void pack(const Message& message, std::byte* buffer) const;
  /// Adds the keys of consecutive steps to the rows of some heads. `first`: the number of the first step,
  /// which gives the lanes of the buffer where they lie. No steps: no keys are added.
  Status run(const Context& context, std::span<const Step> steps, std::size_t first, const HeadRange& heads,
             float* states, bool is_first, bool is_last);
  /// Adds states that run() computed of steps of one split each (is_first, not is_last), in ascending order.
  Status merge(const Context& context, const HeadRange& heads, float* states,
               std::span<const float* const> next, bool is_first, bool is_last);

 private:
  /// Sequences whose queries are packed in one tensor: all, or one of a batch.
  struct Call {
    AttentionArgs args;
    std::vector<std::int32_t> cu_seqlens_q, seqused_k, prefix_lens, table;
    std::vector<std::uint8_t> causal_sequences;
    std::vector<std::int64_t> query_begin, query_total;
    std::vector<float> alibi_slopes;
    std::vector<std::size_t> sequence;  ///< Of each piece.
    std::int64_t states_begin = 0;
  };
  void add_call(std::int64_t batch, std::size_t first, std::size_t last);
  void set_keys(Call* call) const;
  void list_pages(const Step& step, std::int64_t lane, Call* call) const;
  KeyPart part_of(const Call& call, std::span<const Step> steps, const HeadRange& heads) const;

  const SequenceParallelArgs& args_;
  const BlockPlan& plan_;
  const int rank_;
  const PageLayout layout_;
  const bool is_packed_;
  std::vector<Call> calls_;
  const std::byte* buffer_ = nullptr;
  std::int64_t lanes_ = 1, max_pages_ = 0, state_floats_ = 0;
};

/// An error of a field of `local`, with that prefix to its name. Errors of the context or of a variable stay.
Status of_local(const Status& status);
/// The checks that need no other rank.
Status check_sequence_parallel(const SequenceParallelArgs& args, int ranks, int rank);
Work work_of(const SequenceParallelArgs& args);
Reach reach_of(const AttentionArgs& args);
/// Whether all sequences lie in one batch, one after another.
bool is_packed(const SequenceParallelArgs& args);

}  // namespace kumiko::distributed
