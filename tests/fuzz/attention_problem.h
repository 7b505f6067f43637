// SPDX-License-Identifier: Apache-2.0
// A call of attention, by plan and run or in one call.
#pragma once

#include <cstdint>
#include <span>

#include "tests/fuzz/sized.h"

namespace kumiko::fuzz {

class AttentionProblem : public SizedProblem<kumiko_attention_args> {
 public:
  /// A small problem that a context with `num_domains` domains must accept.
  AttentionProblem(Input& input, int num_domains);

  kumiko_status call(const kumiko_context* context) const override {
    return kumiko_attention_forward(context, passed());
  }
  bool is_sane() const override { return is_sane(true); }
  /// A run without lse ignores its strides; a plan checks them always.
  bool is_sane(bool with_lse) const;
  bool is_runnable() const override;
  bool outputs_are_right() const override;
  double tolerance(double value, std::int32_t dtype) const override;

  /// The fields that a plan keeps: all but pointers.
  struct Planned {
    kumiko_attention_args args;
    std::vector<std::int32_t> lengths;
  };
  Planned planned() const;
  bool is_same(const Planned& other) const;
  /// For contexts with other domains, and for runs, which ignore it. No result depends on it.
  void forget_homes() { args_.kv_domains = nullptr; }
  /// The lengths in reverse order, as valid as before; empty where the call has none.
  std::span<const std::int32_t> reverse_lengths();

 private:
  void change(Input& input) override;
  void change_terms(Input& input);
  void draw_terms(Input& input, int terms);
  std::vector<Operand> operands() const override;
  std::vector<Field> tensors() override;
  std::vector<void*> pointers() override;
  std::vector<std::vector<Dim>> sizes() const override;
  std::string describe_options() const override;
  const std::int64_t* rows(const kumiko_attention_args& a) const override { return a.q.shape; }
  std::int64_t keys(const kumiko_attention_args& a) const override { return a.k.shape[2]; }
  void drop_short_lists(kumiko_attention_args* a) const override;

  int num_domains_;
  std::vector<std::int32_t> homes_;
};

}  // namespace kumiko::fuzz
