// SPDX-License-Identifier: Apache-2.0
// A plan of attention_backward, and what of the planned call its runs do not bring along.
#include <nanobind/stl/string.h>

#include <string>
#include <utility>

#include "attention.h"
#include "backward.h"
#include "context.h"

namespace kumiko::python {
namespace {

class PyBackwardPlan {
 public:
  PyBackwardPlan(const Context& context, BackwardCall& call, Layout layout)
      : planned_(call.args.forward),
        wanted_{call.args.dbias.shape != decltype(Tensor::shape){}, call.args.dalibi_slopes != nullptr},
        layout_(layout) {
    without_gil([&] { return renamed_backward(plan_backward(context, call.args, &plan_)); });
    numbers_ = std::move(call.numbers());  // which leaves them where `planned_` points
  }

  nb::object run(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& tensors,
                 const nb::tuple& terms) const {
    BackwardCall call(q, k, v, unpacked<GradientTensors>(tensors), layout_);
    const auto given = unpacked<Terms>(terms);
    call.set(planned_);
    // Without the term the library says that it was planned.
    call.set(given,
             {wanted_.bias && !given.bias.is_none(), wanted_.alibi_slopes && !given.alibi_slopes.is_none()});
    call.set_rows();
    without_gil([&] { return renamed_backward(plan_.run(call.args)); });
    return call.result();
  }

  std::string explain() const { return plan_.explain(); }
  std::int64_t workspace_bytes() const { return plan_.workspace_bytes(); }

 private:
  BackwardPlan plan_;
  AttentionArgs planned_;  // of its pointers only those into numbers_ are used
  Numbers numbers_;
  TermGradients wanted_;
  Layout layout_;
};

void init_backward_plan(PyBackwardPlan* self, nb::handle q, nb::handle k, nb::handle v,
                        const nb::tuple& tensors, const nb::tuple& settings, const nb::tuple& terms,
                        nb::handle return_dbias, nb::handle return_dalibi_slopes, nb::handle layout,
                        nb::handle context) {
  const TermGradients wanted{flag_of("return_dbias", return_dbias),
                             flag_of("return_dalibi_slopes", return_dalibi_slopes)};
  const Layout order = layout_of(layout);
  BackwardCall call(q, k, v, unpacked<GradientTensors>(tensors), order);
  call.set(unpacked<Settings>(settings));
  call.plan(unpacked<Terms>(terms), wanted);
  new (self) PyBackwardPlan(context_of(context), call, order);
}

}  // namespace

void bind_backward_plan(nb::module_& module) {
  using nb::arg;
  nb::class_<PyBackwardPlan>(module, "BackwardPlan", "What kumiko.BackwardPlan wraps.")
      .def("__init__", &init_backward_plan, arg("q").none(), arg("k").none(), arg("v").none(), arg("tensors"),
           arg("settings"), arg("terms"), arg("return_dbias").none(), arg("return_dalibi_slopes").none(),
           arg("layout").none(), arg("context").none())
      .def("run", &PyBackwardPlan::run, arg("q").none(), arg("k").none(), arg("v").none(), arg("tensors"),
           arg("terms"))
      .def("explain", &PyBackwardPlan::explain)
      .def("workspace_bytes", &PyBackwardPlan::workspace_bytes);
}

}  // namespace kumiko::python
