// SPDX-License-Identifier: Apache-2.0
// softmax_pv, fused_gemm, merge_states and quantize_rows.
#include <algorithm>
#include <deque>
#include <optional>
#include <vector>

#include "attention.h"
#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

ConstTensor scores_of(const Imported& tensor) {
  if (tensor.ndim != 4)
    wrong_value("scores.shape", tensor.shape_text(), "four dimensions: batch, q_heads, q_len, kv_len");
  if (!tensor.is(dlpack::kInt, 32) && !tensor.is(dlpack::kFloat, 32))
    wrong_value("scores.dtype", tensor.dtype_name(), "float32 or int32");
  ConstTensor view;
  view.data = tensor.data;
  view.dtype = tensor.dtype.code == dlpack::kInt ? DataType::i32 : DataType::f32;
  std::copy_n(tensor.shape.begin(), 4, view.shape.begin());
  std::copy_n(tensor.stride.begin(), 4, view.stride.begin());
  return view;
}

nb::object softmax_pv_call(nb::handle scores, nb::handle v, nb::handle causal, nb::handle causal_alignment,
                           nb::handle window, nb::handle scale, nb::handle seqused_k, nb::handle pipeline,
                           nb::handle return_lse, nb::handle lse, nb::handle layout, nb::handle out,
                           nb::handle context, nb::handle precision) {
  const Layout order = layout_of(layout);
  const Imported score_tensor("scores", scores), v_tensor("v", v);
  SoftmaxPvArgs args;
  args.scores = scores_of(score_tensor);
  args.v = input_of(v_tensor, order);
  set_visibility(causal, causal_alignment, window, &args);
  args.scale = static_cast<float>(number_of("scale", scale));
  args.pipeline = pipeline_of(pipeline);
  args.precision = precision_of(precision);
  const auto& shape = args.scores.shape;
  const std::vector<std::int32_t> lengths = lengths_of(seqused_k, shape[0]);
  args.seqused_k = seqused_k.is_none() ? nullptr : lengths.data();
  const Output written("out", out, v, ordered(order, shape[0], shape[1], shape[2], args.v.shape[3]),
                       Output::Type::as_like);
  args.out = output_of(written.tensor(), order);
  std::optional<Output> sums;
  if (flag_of("return_lse", return_lse) || !lse.is_none()) {
    sums.emplace("lse", lse, v, std::span(shape).first(3), Output::Type::float32);
    args.lse = lse_of(sums->tensor(), shape, "scores");
  }
  const Context chosen = context_of(context);
  without_gil([&] { return softmax_pv(chosen, args); });
  if (!sums) return written.result();
  return nb::make_tuple(written.result(), sums->result());
}

nb::object fused_gemm_call(nb::handle q, nb::handle k, nb::handle v, nb::handle causal,
                           nb::handle causal_alignment, nb::handle window, nb::handle scale,
                           nb::handle seqused_k, nb::handle layout, nb::handle out, nb::handle context,
                           nb::handle precision) {
  const Layout order = layout_of(layout);
  const Imported q_tensor("q", q), k_tensor("k", k), v_tensor("v", v);
  FusedGemmArgs args;
  args.q = input_of(q_tensor, order);
  args.k = input_of(k_tensor, order);
  args.v = input_of(v_tensor, order);
  set_visibility(causal, causal_alignment, window, &args);
  args.precision = precision_of(precision);
  args.scale = static_cast<float>(number_of("scale", scale));
  const auto& shape = args.q.shape;
  const std::vector<std::int32_t> lengths = lengths_of(seqused_k, shape[0]);
  args.seqused_k = seqused_k.is_none() ? nullptr : lengths.data();
  const Output written("out", out, q, ordered(order, shape[0], shape[1], shape[2], args.v.shape[3]),
                       Output::Type::as_like);
  args.out = output_of(written.tensor(), order);
  const Context chosen = context_of(context);
  without_gil([&] { return fused_gemm(chosen, args); });
  return written.result();
}

/// The n-th (out, lse) of merge_states.
AttentionState state_of(nb::handle pair, std::size_t n, std::deque<std::string>* names,
                        std::deque<Imported>* tensors, Layout order) {
  const std::string name = "states[" + std::to_string(n) + "]";
  if (!PyTuple_Check(pair.ptr()) && !PyList_Check(pair.ptr()))
    wrong_type(name.c_str(), pair, "a pair (out, lse)");
  if (nb::len(pair) != 2)
    wrong_value(name, "of length " + std::to_string(nb::len(pair)), "a pair (out, lse)");
  const auto import = [&](const char* part, nb::handle object) -> const Imported& {
    return tensors->emplace_back(names->emplace_back(name + part).c_str(), object);
  };
  AttentionState state;
  state.out = input_of(import(".out", pair[0]), order);
  const LseView lse = lse_of(import(".lse", pair[1]), state.out.shape, "its out");
  state.lse = lse.data;
  state.lse_stride = lse.stride;
  return state;
}

nb::typed<nb::tuple, nb::object, nb::object> merge_states_call(nb::handle states, nb::handle layout,
                                                               nb::handle out, nb::handle lse,
                                                               nb::handle context) {
  if (!PyTuple_Check(states.ptr()) && !PyList_Check(states.ptr()))
    wrong_type("states", states, "a list of pairs (out, lse)");
  const Layout order = layout_of(layout);
  std::deque<std::string> names;
  std::deque<Imported> tensors;
  std::vector<AttentionState> list;
  for (const nb::handle pair : nb::borrow<nb::object>(states))
    list.push_back(state_of(pair, list.size(), &names, &tensors, order));
  if (list.empty()) wrong_value("states", "empty", "one pair (out, lse) or more");
  const nb::object like = nb::object(states[0])[0];
  const auto& shape = list[0].out.shape;
  const Output written("out", out, like, ordered(order, shape[0], shape[1], shape[2], shape[3]),
                       Output::Type::as_like);
  const Output sums("lse", lse, like, std::span(shape).first(3), Output::Type::float32);
  const Tensor view = output_of(written.tensor(), order);
  const LseView lse_view = lse_of(sums.tensor(), shape, "states[0].out");
  const Context chosen = context_of(context);
  without_gil([&] { return merge_states(chosen, list, view, lse_view); });
  return nb::make_tuple(written.result(), sums.result());
}

nb::object quantize_rows_call(nb::handle x, nb::handle layout, nb::handle out, nb::handle scale,
                              nb::handle context) {
  const Layout order = layout_of(layout);
  const Imported rows("x", x);
  const ConstTensor view = input_of(rows, order);
  const auto& shape = view.shape;
  const Output written("out", out, x, ordered(order, shape[0], shape[1], shape[2], shape[3]),
                       Output::Type::int8);
  const Output scales("scale", scale, x, std::span(shape).first(3), Output::Type::float32);
  const Tensor bytes = int8_output_of(written.tensor(), order);
  const LseView scale_view = lse_of(scales.tensor(), shape, "x");
  const Context chosen = context_of(context);
  without_gil([&] { return quantize_rows(chosen, view, bytes, scale_view); });
  return nb::make_tuple(written.result(), scales.result());
}

}  // namespace

void bind_products(nb::module_& module) {
  using nb::arg;
  module.def("softmax_pv", &softmax_pv_call, arg("scores").none(), arg("v").none(), arg("causal").none(),
             arg("causal_alignment").none(), arg("window").none(), arg("scale").none(),
             arg("seqused_k").none(), arg("pipeline").none(), arg("return_lse").none(), arg("lse").none(),
             arg("layout").none(), arg("out").none(), arg("context").none(), arg("precision").none());
  module.def("fused_gemm", &fused_gemm_call, arg("q").none(), arg("k").none(), arg("v").none(),
             arg("causal").none(), arg("causal_alignment").none(), arg("window").none(), arg("scale").none(),
             arg("seqused_k").none(), arg("layout").none(), arg("out").none(), arg("context").none(),
             arg("precision").none());
  module.def("merge_states", &merge_states_call, arg("states").none(), arg("layout").none(),
             arg("out").none(), arg("lse").none(), arg("context").none());
  module.def("quantize_rows", &quantize_rows_call, arg("x").none(), arg("layout").none(), arg("out").none(),
             arg("scale").none(), arg("context").none());
}

}  // namespace kumiko::python
