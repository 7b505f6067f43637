// SPDX-License-Identifier: Apache-2.0
// attention_backward from Python.
#include <kumiko/attention_backward.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attention.h"
#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

/// What the forward call returned, dout and the gradients, in the order of kumiko/_backward.py.
struct GradientTensors {
  nb::handle dout, out, lse, dlse, delta, dq, dk, dv, dbias, return_dbias, return_dalibi_slopes;
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
  std::optional<Imported> dlse, delta;
  if (!given.dlse.is_none()) args.dlse = lse_of(dlse.emplace("dlse", given.dlse), args.forward.q.shape, "q");
  if (!given.delta.is_none())
    args.delta = lse_of(delta.emplace("delta", given.delta), args.forward.q.shape, "q");
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
  std::optional<Output> dbias, dalibi_slopes;
  std::vector<float> dense_slopes;
  if (flag_of("return_dbias", given.return_dbias) || !given.dbias.is_none()) {
    const nb::handle bias = unpacked<Terms>(terms).bias;
    if (bias.is_none()) wrong_value("dbias", "wanted", "not wanted, as bias is None");
    const Imported shaped("bias", bias);
    const auto shape = std::span(shaped.shape).first(static_cast<std::size_t>(shaped.ndim));
    const Imported& tensor = dbias.emplace("dbias", given.dbias, bias, shape, Output::Type::as_like).tensor();
    if (tensor.ndim != shaped.ndim || !std::equal(shape.begin(), shape.end(), tensor.shape.begin()))
      wrong_value("dbias.shape", tensor.shape_text(), shaped.shape_text() + ", that of bias");
    const ConstTensor to = score_term_of(tensor, args.forward.bias.shape);
    args.dbias = {const_cast<void*>(to.data), to.shape, to.stride, to.dtype};
  }
  if (flag_of("return_dalibi_slopes", given.return_dalibi_slopes)) {
    const nb::handle slopes = unpacked<Terms>(terms).alibi_slopes;
    if (slopes.is_none()) wrong_value("return_dalibi_slopes", "True", "False, as alibi_slopes is None");
    const std::array<std::int64_t, 2> shape = {call.sequences(), args.forward.q.shape[1]};
    const bool is_per_batch = Imported("alibi_slopes", slopes).ndim == 2;
    dalibi_slopes.emplace("dalibi_slopes", nb::none(), slopes, std::span(shape).subspan(is_per_batch ? 0 : 1),
                          Output::Type::float32);
    args.dalibi_slopes = reinterpret_cast<float*>(dalibi_slopes->tensor().data);
    if (is_per_batch && args.forward.alibi_batch_stride != shape[1]) {  // The new tensor's.
      for (std::int64_t b = 0; b < shape[0]; ++b) {
        const float* const row = args.forward.alibi_slopes + b * args.forward.alibi_batch_stride;
        dense_slopes.insert(dense_slopes.end(), row, row + shape[1]);
      }
      args.forward.alibi_slopes = dense_slopes.data();
      args.forward.alibi_batch_stride = shape[1];
    }
  }
  const Context chosen = context_of(context);
  without_gil([&] { return attention_backward(chosen, args); });
  nb::list all;
  all.append(dq.result()), all.append(dk.result()), all.append(dv.result());
  for (const auto* more : {&dsinks, &dbias, &dalibi_slopes}) {
    if (*more) all.append((*more)->result());
  }
  return nb::tuple(all);
}

}  // namespace

void bind_backward(nb::module_& module) {
  using nb::arg;
  module.def("attention_backward", &attention_backward_call, arg("q").none(), arg("k").none(),
             arg("v").none(), arg("tensors"), arg("settings"), arg("terms"), arg("layout").none(),
             arg("context").none());
}

}  // namespace kumiko::python
