// SPDX-License-Identifier: Apache-2.0
// attention_backward from Python.
#include <kumiko/attention_backward.h>

#include <array>
#include <optional>

#include "attention.h"
#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

/// What the forward call returned, dout and the gradients, in the order of kumiko/_backward.py.
struct GradientTensors {
  nb::handle dout, out, lse, dlse, dq, dk, dv;
};

/// A gradient: the given tensor, or a new one with the shape and type of `like`.
Output gradient(const char* name, nb::handle given, nb::handle like, Layout layout, const ConstTensor& of) {
  const auto shape = ordered(layout, of.shape[0], of.shape[1], of.shape[2], of.shape[3]);
  return Output(name, given, like, shape, Output::Type::as_like);
}

nb::object attention_backward_call(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& tensors,
                                   const nb::tuple& settings, const nb::tuple& terms, nb::handle layout,
                                   nb::handle context) {
  const Layout order = layout_of(layout);
  AttentionCall call(q, k, v, order);
  call.set(unpacked<Settings>(settings));
  call.set(unpacked<Terms>(terms));
  const auto given = unpacked<GradientTensors>(tensors);
  const Imported dout("dout", given.dout), out("out", given.out), lse("lse", given.lse);
  BackwardArgs args;
  args.forward = call.args;
  const ConstTensor read = input_of(out, order);
  args.forward.out = {const_cast<void*>(read.data), read.shape, read.stride, read.dtype};
  args.forward.lse = lse_of(lse, args.forward.q.shape, "q");
  args.dout = input_of(dout, order);
  std::optional<Imported> dlse;
  if (!given.dlse.is_none()) args.dlse = lse_of(dlse.emplace("dlse", given.dlse), args.forward.q.shape, "q");
  const Output dq = gradient("dq", given.dq, q, order, args.forward.q),
               dk = gradient("dk", given.dk, k, order, args.forward.k),
               dv = gradient("dv", given.dv, v, order, args.forward.v);
  args.dq = output_of(dq.tensor(), order);
  args.dk = output_of(dk.tensor(), order);
  args.dv = output_of(dv.tensor(), order);
  std::optional<Output> dsinks;
  if (args.forward.sinks) {
    const std::array<std::int64_t, 1> heads = {args.forward.q.shape[1]};
    dsinks.emplace("dsinks", nb::none(), q, heads, Output::Type::float32);
    args.dsinks = reinterpret_cast<float*>(dsinks->tensor().data);
  }
  const Context chosen = context_of(context);
  without_gil([&] { return attention_backward(chosen, args); });
  if (dsinks) return nb::make_tuple(dq.result(), dk.result(), dv.result(), dsinks->result());
  return nb::make_tuple(dq.result(), dk.result(), dv.result());
}

}  // namespace

void bind_backward(nb::module_& module) {
  using nb::arg;
  module.def("attention_backward", &attention_backward_call, arg("q").none(), arg("k").none(),
             arg("v").none(), arg("tensors"), arg("settings"), arg("terms"), arg("layout").none(),
             arg("context").none());
}

}  // namespace kumiko::python
