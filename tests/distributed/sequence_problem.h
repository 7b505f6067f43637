// SPDX-License-Identifier: Apache-2.0
// A problem whose queries and keys are spread over the ranks, beside the same one whole.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "tests/distributed/memory.h"
#include "tests/distributed/ranks.h"

namespace kumiko::test {

struct SequenceShape {
  std::vector<distributed::SequenceLengths> sequences;
  bool is_packed = true;
  std::int64_t q_heads = 4, kv_heads = 2, head_dim = 16, v_head_dim = 24;
  DataType type = DataType::f32, out_type = DataType::f32;
  bool is_int8 = false, rows_first = false;
  bool is_causal = true;
  CausalAlignment alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1, window_right = -1, window_sink_tokens = 0;
  float softcap = 0.0f;
  bool bias = false, mask = false, alibi = false, sinks = false, prefix_lens = false,
       causal_sequences = false;
  bool lse = true, row_max = true;
  distributed::Distribution distribution = distributed::Distribution::zigzag;
  bool is_automatic = false;
  distributed::Algorithm algorithm = distributed::Algorithm::ring;
  std::int64_t block_keys = 0;
  std::uint64_t seed = 1;
};
std::ostream& operator<<(std::ostream& os, const SequenceShape& s);

/// A whole problem, packed on every rank alike, and this rank's part of it.
class SequenceProblem {
 public:
  explicit SequenceProblem(const SequenceShape& shape);

  AttentionArgs whole();
  distributed::SequenceParallelArgs local();
  /// Whether this rank's outputs have the bits of the whole ones.
  ::testing::AssertionResult is_right();
  bool outputs_untouched() const;

 private:
  AttentionArgs common();
  ConstTensor mask_view(Memory& memory) const;
  std::int64_t count_of(std::size_t b, bool is_query) const;
  std::vector<distributed::Rows> rows_of(std::size_t b, bool is_query) const;
  /// visit(batch, head, packed row of the whole, row here) for each row of this rank.
  template <class Visit>
  void gather(Memory& whole, bool is_query, Visit visit) const;
  Memory local_of(Memory& whole, bool is_query) const;

  const SequenceShape s_;
  Memory q_, k_, v_, out_, q_scale_, k_scale_, lse_, row_max_, bias_, mask_;
  Memory local_q_, local_k_, local_v_, local_out_, local_q_scale_, local_k_scale_, local_lse_, local_row_max_,
      local_bias_, local_mask_;
  std::vector<std::int32_t> q_ends_{0}, k_ends_{0}, prefix_lens_;
  std::vector<std::uint8_t> causal_;
  std::vector<float> slopes_, sinks_;
};

/// Calls on one machine and over all ranks: this rank's rows must have the same bits.
void expect_bits_of_one_machine(const Context& context, const SequenceShape& shape);

}  // namespace kumiko::test
