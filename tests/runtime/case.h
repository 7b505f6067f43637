// SPDX-License-Identifier: Apache-2.0
// One attention call as data: its tensors, their memory, its checks.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "runtime/attention.h"
#include "tests/reference/attention_reference.h"
#include "tests/reference/error_promise.h"
#include "tests/runtime/key_list_data.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {

/// Memory layout and broadcasting of a bias or mask.
enum class TermLayout {
  none,
  full,        ///< [batch, q_heads, q_len, kv_len]
  padded,      ///< the same with odd gaps
  heads,       ///< [1, q_heads, q_len, kv_len]
  positions,   ///< [1, 1, q_len, kv_len]
  keys,        ///< [batch, 1, 1, kv_len]
  queries,     ///< [batch, q_heads, q_len, 1]: key stride 0
  transposed,  ///< [batch, q_heads, kv_len, q_len] seen with the last two dimensions exchanged
  one          ///< a single element
};
inline constexpr TermLayout kTermLayouts[] = {TermLayout::full,       TermLayout::padded, TermLayout::heads,
                                              TermLayout::positions,  TermLayout::keys,   TermLayout::queries,
                                              TermLayout::transposed, TermLayout::one};

/// All values of `pipeline`.
inline constexpr Pipeline kPipelines[] = {Pipeline::automatic, Pipeline::online,      Pipeline::decode,
                                          Pipeline::two_pass,  Pipeline::interleaved, Pipeline::three_pass};

struct Case {
  std::int64_t batch = 1, q_heads = 1, kv_heads = 1, q_len = 1, kv_len = 1, head_dim = 8, v_head_dim = 8;
  Layout q_layout = Layout::bhsd, k_layout = Layout::bhsd, v_layout = Layout::bhsd, out_layout = Layout::bhsd;
  GuardedLse::Layout lse = GuardedLse::Layout::contiguous, row_max = GuardedLse::Layout::none;
  bool is_causal = false;
  CausalAlignment alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1, window_right = -1, window_sink_tokens = 0;
  float scale = 0.0f;
  std::vector<std::int32_t> seqused;  ///< empty: none
  float softcap = 0.0f;
  TermLayout bias = TermLayout::none;
  DataType bias_type = DataType::f32;
  TermLayout mask = TermLayout::none;
  std::int64_t mask_block = 1;  ///< the mask is constant within squares of this size
  int alibi = 0;                ///< 1: slopes per head, 2: per sequence and head
  bool sinks = false, lse_with_sink = true;
  LseBase lse_base = LseBase::natural;
  std::vector<std::uint8_t> causal_sequences;  ///< empty: none
  std::vector<std::int32_t> prefix_lens;       ///< empty: none
  KeyListShape lists;
  float q_magnitude = 1.0f, k_magnitude = 1.0f, v_magnitude = 1.0f;
  std::uint64_t seed = 1;  ///< Values, and which guard page each tensor touches.

  std::int64_t scores() const { return batch * q_heads * q_len * kv_len; }
  std::int64_t work() const { return scores() * (head_dim + v_head_dim); }
};
std::ostream& operator<<(std::ostream& os, const Case& c);

/// Kinds of mask, for lists that cross shapes with masks.
inline constexpr int kMaskKinds = 12;
/// Adds causality and prefixes of each sequence's own and first tokens beside a window, or none of them.
void draw_sequence_visibility(Random& random, Case* c);
/// Adds mask number `kind` of kMaskKinds; 0: no mask. The case's seed determines window sizes and lengths.
Case masked(Case c, int kind);
/// A case with any such mask, of one to some queries and of keys within a block or over several splits.
Case draw_small_case(Random& random);

struct Outcome {
  std::vector<float> out, lse, row_max{};
};
::testing::AssertionResult same_bits(const Outcome& got, const Outcome& want);
/// Whether `part`, a call of one sequence whose queries are rows [first, last) of those that gave `whole`,
/// has the bits of these rows, and their LSEs. part.out is still that of the whole call; it is not written.
::testing::AssertionResult gives_rows(const Context& context, AttentionArgs part, const Outcome& whole,
                                      std::int64_t first, std::int64_t last);

/// A bias or mask between guard pages; gaps hold NaN or 0xC5.
class TermTensor {
 public:
  TermTensor() = default;
  TermTensor(const Shape& shape, TermLayout layout, DataType type, Flush flush);
  ConstTensor view() const { return {buffer_.data(), shape_, stride_, type_}; }
  /// value(b, h, i, j) for every distinct element.
  template <class Value>
  void fill(Value value) const {
    for (std::int64_t b = 0; b < own(0); ++b)
      for (std::int64_t h = 0; h < own(1); ++h)
        for (std::int64_t i = 0; i < own(2); ++i)
          for (std::int64_t j = 0; j < own(3); ++j) set(b, h, i, j, value(b, h, i, j));
  }
  void set(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t j, float value) const;

 private:
  std::int64_t own(int dim) const { return stride_[dim] == 0 ? (shape_[dim] > 0 ? 1 : 0) : shape_[dim]; }
  Shape shape_{}, stride_{};
  DataType type_ = DataType::f32;
  GuardedBuffer buffer_;
};

/// The memory of a case. Every tensor ends or begins at a guard page. Memory between elements is poisoned,
/// and so is every key and value past seqused_k (unless the layout makes sequences share memory).
class Problem {
 public:
  explicit Problem(const Case& c);

  const AttentionArgs& args() const { return args_; }
  AttentionArgs args(Pipeline pipeline) const;
  void poison_outputs() const;
  Outcome outcome() const { return {out.elements(), lse.elements(), row_max.elements()}; }
  /// Nothing outside the outputs' elements was written.
  ::testing::AssertionResult borders_intact() const;
  /// Their elements were not written either.
  ::testing::AssertionResult outputs_untouched() const;
  /// Poisons the outputs, runs, checks the borders. A failure fails the running test.
  Outcome run(const Context& context, Pipeline pipeline = Pipeline::automatic) const;
  /// The same of a changed call.
  Outcome run(const Context& context, const AttentionArgs& changed) const;

  GuardedTensor q, k, v, out;
  GuardedLse lse, row_max;
  TermTensor bias, mask;

 private:
  std::vector<float> slopes_, sinks_;
  std::vector<std::int32_t> seqused_, prefix_lens_;
  std::vector<std::uint8_t> causal_sequences_;
  KeyListData lists_;
  AttentionArgs args_;
};

/// v as a view of k: `dim` elements of each row from `first` on.
ConstTensor values_in_keys(const ConstTensor& k, std::int64_t first, std::int64_t dim);
/// Copies those elements into v, a tensor of its own.
void copy_values_of_keys(const GuardedTensor& k, std::int64_t first, const GuardedTensor& v);

}  // namespace kumiko::test
