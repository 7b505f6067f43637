// SPDX-License-Identifier: Apache-2.0
// A call of merge_states: an array of states instead of a sized struct.
#pragma once

#include <memory>

#include "tests/fuzz/problem.h"

namespace kumiko::fuzz {

class MergeProblem : public Problem {
 public:
  explicit MergeProblem(Input& input);

  void pass() override;
  kumiko_status call(const kumiko_context* context) const override;
  bool is_sane() const override;
  /// False for in-place calls: they are valid, but unwritten elements cannot be found there.
  bool owns_memory() const override;
  bool outputs_are_right() const override;
  double tolerance(double value, std::int32_t dtype) const override;
  Wide work() const override;

  /// Copies the first state into the outputs and makes these its memory. False if their types differ or lse
  /// is not requested.
  bool move_in_place();

 private:
  void change(Input& input) override;
  std::vector<Operand> operands() const override;
  std::vector<Field> tensors() override;
  std::vector<void*> pointers() override;
  std::vector<std::vector<Dim>> sizes() const override;
  std::string describe_options() const override;

  std::vector<kumiko_attention_state> states_;
  kumiko_tensor out_ = KUMIKO_TENSOR_INIT;
  float* lse_ = nullptr;
  std::int64_t lse_stride_[3] = {};
  bool has_lse_stride_ = false;
  std::int64_t count_ = 0;

  std::unique_ptr<kumiko_attention_state[]> passed_states_;
  std::unique_ptr<kumiko_tensor> passed_out_;
  std::unique_ptr<std::int64_t[]> passed_stride_;
};

}  // namespace kumiko::fuzz
