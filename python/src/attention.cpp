// SPDX-License-Identifier: Apache-2.0
#include "attention.h"

#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

nb::object attention(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& settings,
                     const nb::tuple& terms, const nb::tuple& rows, nb::handle layout, nb::handle out,
                     nb::handle context) {
  AttentionCall call(q, k, v, layout_of(layout));
  call.set(unpacked<Settings>(settings));
  call.set(unpacked<Terms>(terms));
  call.set_out(out);
  call.set(unpacked<RowOutputs>(rows));
  const Context chosen = context_of(context);
  without_gil([&] { return attention_forward(chosen, call.args); });
  return call.result();
}

}  // namespace

void bind_attention(nb::module_& module) {
  using nb::arg;
  module.def("attention", &attention, arg("q").none(), arg("k").none(), arg("v").none(), arg("settings"),
             arg("terms"), arg("rows"), arg("layout").none(), arg("out").none(), arg("context").none());
}

}  // namespace kumiko::python
