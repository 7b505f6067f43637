// SPDX-License-Identifier: Apache-2.0
// One call of attention_backward as data: a forward case, and the gradients' memory.
#pragma once

#include <string>
#include <vector>

#include "runtime/attention_backward.h"
#include "tests/reference/gradient_reference.h"
#include "tests/runtime/case.h"

namespace kumiko::test {

struct BackwardCase {
  Case forward;
  Layout dout = Layout::bhsd, dq = Layout::bhsd, dk = Layout::bhsd, dv = Layout::bhsd;
  GuardedLse::Layout dlse = GuardedLse::Layout::none;
};
std::ostream& operator<<(std::ostream& os, const BackwardCase& c);

/// Any case.
BackwardCase draw_backward_case(Random& random);

/// Two sequences of two KV heads, each of two query heads.
BackwardCase grouped_case(std::int64_t q_len, std::int64_t kv_len, std::int64_t head_dim,
                          std::int64_t v_head_dim);

struct Gradients {
  std::vector<float> dq, dk, dv, dsinks;
};
::testing::AssertionResult same_bits(const Gradients& got, const Gradients& want);

/// What the gradients of a case must be.
struct GradientAnswer {
  GradientResult<double> fp64;
  GradientResult<float> naive;
  Rounded what = Rounded::nothing;  ///< By naive.
  /// Whether they meet the error promise.
  ::testing::AssertionResult is_met_by(const Gradients& got) const;
};

/// The memory of a case, as Problem's: between guard pages, gaps poisoned. Made with the results of the
/// forward call on `context`.
class BackwardProblem {
 public:
  BackwardProblem(const BackwardCase& c, const Context& context);

  /// Of the forward call's tensors and results as they are now.
  const BackwardArgs& args() const { return args_; }
  /// Poisons the gradients, runs, checks their borders. A failure fails the running test.
  Gradients run(const Context& context) const { return run(context, args_); }
  /// The same on other tensors of the same shapes, with the gradients of this one.
  Gradients run(const Context& context, const BackwardArgs& args) const;
  void poison_gradients() const;
  ::testing::AssertionResult outputs_untouched() const;
  /// Puts `value` somewhere into q, k, v or dout, by `n`, and says where. What the forward call wrote is
  /// older.
  std::string put(float value, int n, Random& random) const;
  GradientAnswer answer(Rounded what = Rounded::nothing) const;

  Problem forward;
  GuardedTensor dout, dq, dk, dv;
  GuardedLse dlse;

 private:
  mutable std::vector<float> dsinks_;
  BackwardArgs args_;
};

/// A problem whose q, k, v and dout are bf16, rounded. `out`, `lse` and the gradients stay f32, so that what
/// is seen is the arithmetic and not the last rounding.
class Bf16Problem {
 public:
  Bf16Problem(const BackwardCase& c, const Context& context);

  BackwardArgs args(Precision precision) const;
  /// Both calls.
  Gradients run(const Context& context, Precision forward, Precision precision) const;
  /// Copies changed elements of `wide`.
  void refresh() const;

  BackwardProblem wide;  ///< The same values.
  NarrowTensor q, k, v, dout;
};

/// Runs `args`, those of `problem` but for a fault: the status has this code and says `message`, and nothing
/// is written. A failure fails the running test.
void expect_error(const Context& context, const BackwardProblem& problem, const BackwardArgs& args, Code code,
                  const std::string& message);

/// Sequences packed in a batch of 1, one after another, by where each begins and the last one ends.
struct Packing {
  std::vector<std::int32_t> q_begin, k_begin;
  void pack(BackwardArgs* args) const;
  /// Sequence s of `args`, which are not packed, as a call of its own.
  BackwardArgs alone(const BackwardArgs& args, std::size_t s) const;
};

/// dq, dk and dv must be finite where those of fp64 are, and nowhere else.
void expect_finite_where(const Gradients& got, const GradientResult<double>& want);

}  // namespace kumiko::test
