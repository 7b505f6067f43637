// SPDX-License-Identifier: Apache-2.0
// What a call computes, in the one form that attention_forward, softmax_pv and fused_gemm are converted to
// for planning and running. It holds no tensor's pointer, because each run of a plan has its own.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "kernels/pipelines/pipeline.h"
#include "runtime/attention.h"
#include "runtime/key_parts.h"

namespace kumiko {

inline constexpr double kLog2e = 1.44269504088896340736;

enum class Computation : std::uint8_t { attention, softmax_pv, fused_gemm };

/// The kernels' type for f32, bf16, f16 or i8. Validation refuses any other for queries, keys, values,
/// outputs and biases, and i8 for all but queries and keys.
kernels::Element element_of(DataType type);

/// Strides of a tensor's rows, in elements. For a dimension of size 1 the stride is 0 whatever the caller
/// gave: that may be any number, so nothing may be computed from it.
struct Layout {
  std::int64_t batch = 0, head = 0, seq = 0;
  bool operator==(const Layout&) const = default;
};
/// The layout of a tensor of that shape; all 0 if it has no elements.
Layout layout_of(const std::array<std::int64_t, 4>& shape, const std::array<std::int64_t, 4>& stride);

/// One sequence of a batch.
struct Sequence {
  std::int64_t q_begin;  ///< Its first query position in q and out.
  std::int64_t q_len;
  std::int64_t q_total;   ///< Queries of the whole sequence; more than q_len if these are some (KeyPart).
  std::int64_t kv_begin;  ///< Its first key in k and v; 0 with pages.
  std::int64_t kv_len;    ///< Keys used.
  std::int64_t diagonal;  ///< Query i stands at key position i + diagonal.
};

/// The pages of a run's sequences: rows of a table or, with kv_indptr, one list after another.
struct PageTable {
  const std::int32_t* block_table = nullptr;
  const std::int32_t* kv_indptr = nullptr;
};

/// What a call does with the states of its rows (key_parts.h).
enum class StatesKept : std::uint8_t { none, running, of_each_split };

/// The tensors of one run.
struct Operands {
  const void* q = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  void* out = nullptr;
  float* lse = nullptr;      ///< nullptr: not wanted
  Layout lse_layout;         ///< Here and not in Problem, because each run may have another.
  float* row_max = nullptr;  ///< The same.
  Layout row_max_layout;
  const void* scores = nullptr;
  const void* bias = nullptr;
  const std::uint8_t* mask = nullptr;
  const float* alibi_slopes = nullptr;
  PageTable pages;
  const float* sinks = nullptr;
  const float* q_scales = nullptr;  ///< Of int8 queries; nullptr: 1.
  const float* k_scales = nullptr;
  Layout q_scales_layout, k_scales_layout;
  const std::uint8_t* tree_mask = nullptr;
  const std::int32_t* bsr_indptr = nullptr;
  const std::int32_t* bsr_indices = nullptr;
  float* states = nullptr;  ///< Problem::states_kept
  bool is_first_part = true, is_last_part = true;
};

/// Sequences ordered so that those whose block tables begin with the same pages are neighbours
/// (shared_keys.h).
struct CommonPages {
  std::vector<std::int32_t> sequences;
  std::vector<std::int64_t>
      splits;  ///< [sequences] first splits shared with the sequence before in this list
  bool operator==(const CommonPages&) const = default;
};

struct Problem {
  Computation computation = Computation::attention;
  kernels::ElementTypes types{};
  std::int64_t batch = 0, q_heads = 0, kv_heads = 0;
  std::int64_t q_len = 0;     ///< Of the longest sequence.
  std::int64_t kv_len = 0;    ///< Keys that the longest sequence can have, used or not.
  std::int64_t head_dim = 0;  ///< 0: precomputed scores (softmax_pv).
  std::int64_t v_head_dim = 0;
  Layout q, k, v, out, scores, bias, mask;  ///< The batch stride of k and v in pages is that of a page.
  bool integer_scores = false;
  /// HeadProblem::value_in_key by the pointers that plan() was given, for what a plan says of bytes read.
  /// Runs find it from their own pointers.
  std::int64_t value_in_key = -1;

  float q_scale = 0.0f;  ///< See HeadProblem.
  kernels::ScoreTerms terms;
  std::int64_t alibi_batch_stride = 0;
  bool has_alibi_slopes = false;
  bool has_sinks = false;
  kernels::LseForm lse_form;

  bool is_causal = false;
  CausalAlignment alignment = CausalAlignment::bottom_right;
  std::int64_t window_left = -1;   ///< -1: no limit
  std::int64_t window_right = -1;  ///< Of sequences that are not causal.
  std::int64_t window_sink_tokens = 0;
  bool has_causal_sequences = false, has_prefix_lens = false;
  std::vector<std::uint8_t> causal_sequences;  ///< [batch], or empty: is_causal
  std::vector<std::int32_t> prefix_lens;       ///< [batch], or empty: 0
  bool has_seqused_k = false;
  std::vector<std::int32_t> seqused_k;  ///< [batch] keys used, or empty: all
  bool has_cu_seqlens_q = false, has_cu_seqlens_k = false;
  std::vector<std::int32_t> cu_seqlens_q, cu_seqlens_k;  ///< [batch + 1], or empty: not packed

  bool has_block_table = false, has_kv_indptr = false;
  bool has_key_tiles = false;  ///< KeyLayout::tiles_of_16
  std::int64_t page_keys = 0;  ///< Of a page; 0: no pages.
  std::int64_t pages = 0;      ///< In k and v.
  std::int64_t max_pages = 0, block_table_stride = 0;
  bool has_mask = false, has_tree_mask = false, has_bsr_indptr = false, has_bsr_indices = false;
  std::int64_t mask_key_stride = 0;   ///< Of `mask`.
  std::int64_t tree_mask_stride = 0;  ///< Bytes.
  std::int64_t bsr_rows = 0, bsr_keys = 0, bsr_head_stride = 0;
  std::vector<std::int64_t> bsr_begin;  ///< [batch] blocks of the packed sequences before each, or empty

  CommonPages common;  ///< In the table that the plan was given; empty if there are none.

  Pipeline pipeline = Pipeline::automatic;
  Precision precision = Precision::automatic;

  KeyPart part;                                        ///< without its arrays
  std::vector<std::int64_t> query_begin, query_total;  ///< [batch], or empty: 0 and q_len
  StatesKept states_kept = StatesKept::none;
  std::vector<std::int64_t> states_begin;  ///< [batch + 1] floats before each sequence; empty: no states

  std::int64_t group() const { return kv_heads > 0 ? q_heads / kv_heads : 0; }
  Sequence sequence(std::int64_t b) const;
  bool is_causal_sequence(std::int64_t b) const {
    return causal_sequences.empty() ? is_causal : causal_sequences[static_cast<std::size_t>(b)] != 0;
  }
  /// Query rows of one KV head of sequence b.
  std::int64_t rows_of(std::int64_t b) const { return group() * sequence(b).q_len; }
  /// The same of the longest sequence, of the shortest one that has any, and of all together.
  std::int64_t most_rows() const { return group() * q_len; }
  std::int64_t least_rows() const;
  std::int64_t total_rows() const;
  /// Keys that sequence b can have.
  std::int64_t capacity(std::int64_t b) const;
  /// Blocks of queries of a sequence, each with lists of key blocks.
  std::int64_t bsr_blocks(std::int64_t q_len_of_one) const {
    return q_len_of_one / bsr_rows + (q_len_of_one % bsr_rows != 0);
  }
  /// The pages of sequence b in a table of this problem, and how many are listed.
  const std::int32_t* pages_of(const PageTable& table, std::int64_t b) const {
    return table.block_table + (table.kv_indptr ? table.kv_indptr[b] : b * block_table_stride);
  }
  std::int64_t number_of_pages(const PageTable& table, std::int64_t b) const {
    return table.kv_indptr ? table.kv_indptr[b + 1] - table.kv_indptr[b] : max_pages;
  }
  /// HeadProblem::value_in_key of a run on these tensors.
  std::int64_t value_in_key_of(const void* k_data, const void* v_data) const;
  /// Bytes of a key and its value; those of a value in its key's row count once.
  std::int64_t key_bytes() const {
    return head_dim * kernels::bytes_of(types.key) +
           (value_in_key < 0 ? v_head_dim : 0) * kernels::bytes_of(types.value);
  }
  bool is_empty() const { return batch == 0 || most_rows() == 0; }
  /// The first split of the part, and how many have a key of sequence b.
  std::int64_t first_own_split() const;
  std::int64_t own_splits(std::int64_t b) const;
  /// KV heads [first_head(), end_head()) are computed.
  std::int64_t first_head() const { return part.kv_head_begin; }
  std::int64_t end_head() const { return part.kv_head_end < 0 ? kv_heads : part.kv_head_end; }
  std::int64_t own_heads() const { return end_head() - first_head(); }
  /// KV heads that decode computes in one task (pipelines/decode.h): as many as lie side by side in 4 KiB of
  /// keys and of values. 1 where one head's rows follow one another.
  std::int64_t heads_side_by_side() const;
  /// The states of a KV head.
  std::int64_t states_of(std::int64_t b, std::int64_t kv_head) const {
    const std::int64_t first = states_begin[static_cast<std::size_t>(b)];
    return first + (states_begin[static_cast<std::size_t>(b) + 1] - first) / kv_heads * kv_head;
  }
  /// One KV head of sequence `b`.
  kernels::HeadProblem head(const Operands& operands, std::int64_t b, std::int64_t kv_head) const;
  /// What all heads of sequence `b` have in common: sizes, and which keys a row sees.
  kernels::HeadProblem keys_seen(std::int64_t b) const;

 private:
  void set_keys_seen(const Sequence& request, std::int64_t b, kernels::HeadProblem* head) const;
  kernels::KeyLists key_lists(const Operands& operands, std::int64_t b, std::int64_t q_head) const;
};

/// The layout of an lse or row_max that belongs to `out`.
Layout lse_layout_of(const LseView& view, const Tensor& out);

/// `args` must be valid except for pointers. The values of seqused_k are copied.
Problem lower(const AttentionArgs& args);
Problem lower(const SoftmaxPvArgs& args);
Problem lower(const FusedGemmArgs& args);

Operands operands_of(const AttentionArgs& args);
Operands operands_of(const SoftmaxPvArgs& args);
Operands operands_of(const FusedGemmArgs& args);

}  // namespace kumiko
