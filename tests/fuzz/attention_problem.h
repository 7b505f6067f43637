// SPDX-License-Identifier: Apache-2.0
// A call of attention, by plan and run or in one call.
#pragma once

#include <cstdint>
#include <span>

#include "tests/fuzz/sized.h"

namespace kumiko::fuzz {

class AttentionProblem : public SizedProblem<kumiko_attention_args> {
 public:
  /// A small problem that a context with `num_domains` domains must accept; `serves`: of packed sequences, of
  /// pages, or of both (packed_sequences.cpp); `has_extras`: with sinks and the like (attention_extras.cpp).
  AttentionProblem(Input& input, int num_domains, bool serves = false, bool has_extras = false);

  kumiko_status call(const kumiko_context* context) const override {
    return kumiko_attention_forward(context, passed());
  }
  bool is_sane() const override { return is_sane(true, true); }
  /// A run without lse or row_max ignores its strides; a plan checks them always.
  bool is_sane(bool with_lse, bool with_row_max) const;
  /// Whether there are kernels depends on the ISA.
  bool is_unsupported() const override;
  bool is_runnable() const override;
  bool outputs_are_right() const override;
  double tolerance(double value, std::int32_t dtype) const override;

  /// The fields that a plan keeps: all but pointers.
  struct Planned {
    kumiko_attention_args args;
    std::vector<std::int32_t> lengths, cu_seqlens_q, cu_seqlens_k, prefixes;
    std::vector<std::uint8_t> causal;
  };
  Planned planned() const;
  bool is_same(const Planned& other) const;
  /// For contexts with other domains, and for runs, which ignore it. No result depends on it.
  void forget_homes() { args_.kv_domains = nullptr; }
  /// Changes the lengths to others as valid, and back at the next call: the reverse order, or the keys that
  /// were not used. Empty where the call has none.
  std::span<const std::int32_t> other_lengths();
  /// The block table that a call sees, or null.
  const std::int32_t* block_table() const { return seen().block_table; }
  const std::int32_t* kv_indptr() const { return seen().kv_indptr; }
  /// plan() reads the table, so it refuses one at an address that cannot be.
  bool has_table_at_no_address() const {
    const auto address = reinterpret_cast<std::uintptr_t>(block_table());
    constexpr std::uintptr_t kFarthest = std::uintptr_t{1} << 47;
    return address % sizeof(std::int32_t) != 0 || address >= kFarthest;
  }

 private:
  enum Home : std::size_t { kQ, kK, kV, kOut, kLse, kBias, kMask, kSlopes, kSinks, kRowMax, kTable };
  /// How the tensors of a valid problem lie.
  struct Places {
    Layout::Order order;
    int q_shared, kv_shared;
    std::int64_t q_pad, k_pad, v_pad, out_pad, lse_step;
  };
  void change(Input& input) override;
  void change_terms(Input& input);
  void draw_terms(Input& input, int terms);
  void draw_sequences(Input& input, const Places& places);
  void pack_queries(Input& input, const Places& places);
  void place_keys(const Places& places, std::int64_t batch, std::int64_t keys);
  void draw_pages(Input& input, const Places& places, std::int64_t rows, bool has_lists);
  void enlarge_terms(Input& input, const Places& places);
  void draw_extras(Input& input);
  void draw_key_tiles();
  void draw_sequence_visibility(Input& input);
  void draw_row_max(Input& input);
  void draw_int8(Input& input);
  void change_extras(Input& input);
  bool has_sane_extras(const kumiko_attention_args& a) const;
  void draw_key_lists(Input& input);
  void change_key_lists(Input& input);
  bool has_sane_key_lists(const kumiko_attention_args& a) const;
  /// What the lists of a sane problem hold.
  bool has_sane_block_lists(const kumiko_attention_args& a) const;
  void add_key_lists(const kumiko_attention_args& a, std::vector<Operand>* all) const;
  void change_sequences(Input& input);
  void change_sequences_pointer(Input& input);
  /// Gives every entry of the table that a run reads a page, if it has none.
  void complete_table(const kumiko_attention_args& a);
  bool has_own_table(const kumiko_attention_args& a) const;
  /// How many numbers lie at one of the lists here.
  std::int64_t size_of_list(const std::int32_t* list) const;
  std::vector<Operand> operands() const override;
  Operand written_part(const Operand& o) const override;
  std::vector<Field> tensors() override;
  std::vector<void*> pointers() override;
  std::vector<std::vector<Dim>> sizes() const override;
  std::string describe_options() const override;
  const std::int64_t* rows(const kumiko_attention_args& a) const override { return a.q.shape; }
  std::int64_t keys(const kumiko_attention_args& a) const override;
  std::int64_t sequences(const kumiko_attention_args& a) const override;
  void drop_short_lists(kumiko_attention_args* a) const override;

  int num_domains_;
  bool serves_, has_extras_;
  std::vector<std::int32_t> homes_, cu_seqlens_q_, cu_seqlens_k_, kv_indptr_, prefixes_;
  std::vector<std::uint8_t> causal_;
  bool has_equal_tables_ = false;  ///< Sequences begin with the same pages.
};

}  // namespace kumiko::fuzz
