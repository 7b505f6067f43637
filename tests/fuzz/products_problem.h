// SPDX-License-Identifier: Apache-2.0
// Calls of softmax_pv and fused_gemm: attention without q k^T or without the softmax.
#pragma once

#include "tests/fuzz/sized.h"

namespace kumiko::fuzz {

class SoftmaxPvProblem : public SizedProblem<kumiko_softmax_pv_args> {
 public:
  explicit SoftmaxPvProblem(Input& input);

  kumiko_status call(const kumiko_context* context) const override {
    return kumiko_softmax_pv(context, passed());
  }
  bool is_sane() const override;
  bool is_unsupported() const override {
    return seen().pipeline == KUMIKO_PIPELINE_DECODE || seen().precision >= KUMIKO_PRECISION_HALF;
  }
  bool outputs_are_right() const override;
  double tolerance(double value, std::int32_t dtype) const override;

 private:
  void change(Input& input) override;
  std::vector<Operand> operands() const override;
  std::vector<Field> tensors() override;
  std::vector<void*> pointers() override { return {&args_.lse}; }
  std::vector<std::vector<Dim>> sizes() const override;
  std::string describe_options() const override;
  const std::int64_t* rows(const kumiko_softmax_pv_args& a) const override { return a.scores.shape; }
  std::int64_t keys(const kumiko_softmax_pv_args& a) const override { return a.scores.shape[3]; }
};

class FusedGemmProblem : public SizedProblem<kumiko_fused_gemm_args> {
 public:
  explicit FusedGemmProblem(Input& input);

  kumiko_status call(const kumiko_context* context) const override {
    return kumiko_fused_gemm(context, passed());
  }
  bool is_unsupported() const override { return seen().precision >= KUMIKO_PRECISION_HALF; }
  bool is_sane() const override;
  bool outputs_are_right() const override;
  double tolerance(double value, std::int32_t dtype) const override;

 private:
  void change(Input& input) override;
  std::vector<Operand> operands() const override;
  std::vector<Field> tensors() override;
  std::vector<void*> pointers() override { return {}; }
  std::vector<std::vector<Dim>> sizes() const override;
  const std::int64_t* rows(const kumiko_fused_gemm_args& a) const override { return a.q.shape; }
  std::int64_t keys(const kumiko_fused_gemm_args& a) const override { return a.k.shape[2]; }
  /// Upper bound of a plain problem's outputs.
  double bound() const;
};

}  // namespace kumiko::fuzz
