// SPDX-License-Identifier: Apache-2.0
// One call of attention_backward as data: a forward case, and the gradients' memory.
#pragma once

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

struct Gradients {
  std::vector<float> dq, dk, dv, dsinks;
};
::testing::AssertionResult same_bits(const Gradients& got, const Gradients& want);

/// What the gradients of a case must be.
struct GradientAnswer {
  GradientResult<double> fp64;
  GradientResult<float> naive;
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
  Gradients run(const Context& context) const;
  ::testing::AssertionResult outputs_untouched() const;
  GradientAnswer answer() const;

  Problem forward;
  GuardedTensor dout, dq, dk, dv;
  GuardedLse dlse;

 private:
  mutable std::vector<float> dsinks_;
  BackwardArgs args_;
};

}  // namespace kumiko::test
