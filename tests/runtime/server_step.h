// SPDX-License-Identifier: Apache-2.0
// One step of a server as data: sequences of different lengths, packed, their keys and values in pages or
// packed too, and each sequence again as a dense call of its own.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "runtime/attention.h"
#include "tests/runtime/case.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/tensor.h"

namespace kumiko::test {

struct StepSequence {
  std::int32_t q_len, kv_len;
  std::int32_t parent = -1;      ///< An earlier sequence that begins with the same keys,
  std::int32_t shared_keys = 0;  ///< so many. Their whole pages are the parent's.
};

struct StepShape {
  std::vector<StepSequence> sequences;
  std::int64_t q_heads = 4, kv_heads = 2, head_dim = 16, v_head_dim = 24;
  DataType type = DataType::f32;
  std::int64_t page_keys = 16;       ///< 0: cu_seqlens_k
  bool key_tiles = false;            ///< KeyLayout::tiles_of_16; needs pages of a multiple of 16
  std::int64_t tile_gap = 0;         ///< elements between the tiles of two heads
  bool page_lists = false;           ///< kv_indptr, and lists in any room
  Layout q_layout = Layout::padded;  ///< of q and out
  Layout k_layout = Layout::bhsd, v_layout = Layout::bhsd;  ///< of pages: bhsd is HND, bshd NHD
  std::int64_t value_in_key =
      -1;                      ///< 0 or more: v is a view of k's rows from there on (MLA); v_layout unused
  std::int64_t idle_rows = 3;  ///< query positions after the last sequence
  bool is_causal = true;
  CausalAlignment alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1, window_right = -1, window_sink_tokens = 0;
  float softcap = 0.0f;
  bool bias = false, mask = false, alibi = false, sinks = false;
  bool causal_sequences = false, prefix_lens = false;  ///< each sequence's own
  KeyListShape lists;
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& os, const StepShape& shape);

class ServerStep {
 public:
  explicit ServerStep(const StepShape& shape);

  const AttentionArgs& args() const { return args_; }
  /// The call of sequence b alone, into tensors of its own.
  AttentionArgs alone(std::size_t b) const;
  std::size_t sequences() const { return shape_.sequences.size(); }

  void poison_outputs() const;
  /// Rows of sequence b in the packed outputs, and in those of its own.
  Outcome packed_outcome(std::size_t b) const;
  Outcome alone_outcome(std::size_t b) const { return alone_[b].outcome(shape_.type); }
  /// Nothing outside the sequences' rows was written.
  ::testing::AssertionResult borders_intact() const;
  ::testing::AssertionResult outputs_untouched() const;

  /// Gives every sequence other pages, in another order.
  void move_pages();
  std::int32_t& table(std::size_t b, std::int64_t page) { return block_table_[page_index(b, page)]; }
  std::vector<std::int32_t>& cu_seqlens_q() { return cu_seqlens_q_; }
  std::vector<std::int32_t>& cu_seqlens_k() { return cu_seqlens_k_; }
  std::vector<std::int32_t>& lengths() { return seqused_k_; }
  std::vector<std::int32_t>& kv_indptr() { return kv_indptr_; }

 private:
  std::size_t page_index(std::size_t b, std::int64_t page) const {
    const std::int64_t first =
        shape_.page_lists ? kv_indptr_[b] : static_cast<std::int64_t>(b) * args_.block_table_stride;
    return static_cast<std::size_t>(first + page);
  }
  /// A tensor in f32, and in the step's type if that is narrower.
  struct Operand {
    GuardedTensor wide;
    NarrowTensor narrow;
    Operand() = default;
    Operand(const Shape& shape, Layout layout, DataType type, Random& random);
    void store(DataType type) const;
    ConstTensor input(DataType type) const { return type == DataType::f32 ? wide.input() : narrow.input(); }
    Tensor output(DataType type) const { return type == DataType::f32 ? wide.output() : narrow.output(); }
    std::vector<float> elements(DataType type) const {
      return type == DataType::f32 ? wide.elements() : narrow.elements();
    }
    void poison(DataType type) const;
  };
  struct Alone {
    Operand k, v, out;
    GuardedLse lse, row_max;
    Outcome outcome(DataType type) const { return {out.elements(type), lse.elements(), row_max.elements()}; }
  };
  void place_sequences(Random& random);
  void store_keys_and_values();
  void place_key_tiles(Random& random);
  void store_key_tiles() const;

  StepShape shape_;
  Random random_;
  std::int64_t positions_ = 0, capacity_ = 0;
  Operand q_, k_, v_, out_;
  GuardedBuffer key_tiles_;
  GuardedLse lse_, row_max_;
  TermTensor bias_, mask_;
  std::vector<float> slopes_, sinks_;
  std::vector<Alone> alone_;
  std::vector<std::int32_t> cu_seqlens_q_, cu_seqlens_k_, seqused_k_, block_table_, kv_indptr_, prefix_lens_;
  std::vector<std::uint8_t> causal_sequences_;
  KeyListData lists_;
  AttentionArgs args_;
};

/// Asserts that the step's outputs have the bits of each sequence's own dense call, and that nothing else was
/// written.
void expect_rows_of_sequences_alone(const ServerStep& step, const Context& context);

}  // namespace kumiko::test
