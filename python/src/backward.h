// SPDX-License-Identifier: Apache-2.0
// One call of attention_backward from Python, or the plan of one.
#pragma once

#include <kumiko/attention_backward.h>
#include <nanobind/nanobind.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "call.h"
#include "outputs.h"

namespace kumiko::python {

/// What the forward call returned, dout and the gradients, in the order of kumiko/_backward.py.
struct GradientTensors {
  nb::handle dout, out, lse, dlse, delta, dq, dk, dv, dsinks, dbias, dalibi_slopes;
};

/// Which gradients of terms there are beside that of the sinks, which a call with sinks has.
struct TermGradients {
  bool bias = false, alibi_slopes = false;
};

/// The library's arguments, and what keeps their memory alive.
class BackwardCall {
 public:
  BackwardCall(nb::handle q, nb::handle k, nb::handle v, const GradientTensors& tensors, Layout layout);

  void set(const Settings& settings) { forward_.set(settings); }
  /// The settings of a planned call.
  void set(const AttentionArgs& planned) { forward_.set(planned); }
  /// The terms, and the gradients, new ones where none is given.
  void set(const Terms& terms, const TermGradients& wanted);
  /// The same of a call to be planned: gradients that are not given have no memory.
  void plan(const Terms& terms, const TermGradients& wanted);
  /// lse, dlse and delta, of which plans know nothing.
  void set_rows();
  /// (dq, dk, dv), and after these dsinks, dbias and dalibi_slopes where there are any.
  nb::tuple result() const;

  BackwardArgs args;
  /// Those that `args` points to.
  Numbers& numbers() { return forward_.numbers; }

 private:
  void set_terms(const Terms& terms, const TermGradients& wanted);
  Tensor gradient(const char* name, nb::handle given, nb::handle like, const ConstTensor& of,
                  std::optional<Output>* output) const;
  void set_dsinks(nb::handle sinks);
  void set_dbias(nb::handle bias);
  void clear_dbias_of_nothing() const;
  void set_dalibi_slopes(nb::handle slopes);

  AttentionCall forward_;
  nb::handle q_, k_, v_;
  GradientTensors given_;
  Layout layout_;
  bool is_planned_ = false;
  float planned_floats_ = 0.0f;  // A plan looks only at whether there is a pointer.
  std::optional<Imported> dout_, out_, lse_, dlse_, delta_;
  std::optional<Output> dq_, dk_, dv_, dsinks_, dbias_, dalibi_slopes_;
  std::vector<float> dense_slopes_;
};

/// Without "forward.": in Python these are arguments of the call itself.
Status renamed_backward(const Status& status);

}  // namespace kumiko::python
