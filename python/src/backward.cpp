// SPDX-License-Identifier: Apache-2.0
// attention_backward from Python.
#include "backward.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>

#include "attention.h"
#include "context.h"

namespace kumiko::python {
namespace {

std::span<const std::int64_t> shape_of(const Imported& tensor) {
  return std::span(tensor.shape).first(static_cast<std::size_t>(tensor.ndim));
}

void expect_shape_of(const Imported& tensor, const Imported& like) {
  if (!std::ranges::equal(shape_of(tensor), shape_of(like)))
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                like.shape_text() + ", that of " + like.name);
}

/// A gradient that the library writes without strides.
float* floats_of(const Imported& tensor, const Imported& like) {
  expect_float32(tensor);
  expect_shape_of(tensor, like);
  std::int64_t step = 1;
  for (int i = 1; i <= tensor.ndim && step != 0; ++i) {
    if (tensor.step(-i) != step)
      wrong_value(std::string(tensor.name) + ".stride[" + std::to_string(tensor.ndim - i) + "]",
                  std::to_string(tensor.step(-i)), std::to_string(step) + ": a contiguous tensor");
    step *= tensor.size(-i);
  }
  return reinterpret_cast<float*>(tensor.data);
}

/// The gradient of a bias that broadcasts to `shape`, as a contiguous tensor of the bias's own shape.
Tensor contiguous_term(const Imported& bias, const std::array<std::int64_t, 4>& shape) {
  Tensor view;
  view.shape = shape;
  view.dtype = dtype_of(bias);
  std::int64_t step = 1;
  for (int i = 1; i <= bias.ndim; ++i) {
    view.stride[static_cast<std::size_t>(4 - i)] = bias.size(-i) == 1 ? 0 : step;
    step *= bias.size(-i);
  }
  return view;
}

}  // namespace

Status renamed_backward(const Status& status) {
  static constexpr char kPrefix[] = "forward.";
  std::string message = status.message();
  for (std::size_t at = 0; (at = message.find(kPrefix, at)) != std::string::npos;)
    message.erase(at, sizeof(kPrefix) - 1);
  return {status.code(), message};
}

BackwardCall::BackwardCall(nb::handle q, nb::handle k, nb::handle v, const GradientTensors& tensors,
                           Layout layout)
    : forward_(q, k, v, layout), q_(q), k_(k), v_(v), given_(tensors), layout_(layout) {
  args.dout = input_of(dout_.emplace("dout", given_.dout), layout);
  const ConstTensor out = input_of(out_.emplace("out", given_.out), layout);
  forward_.args.out = {const_cast<void*>(out.data), out.shape, out.stride, out.dtype};
}

void BackwardCall::set_rows() {
  const auto& shape = args.forward.q.shape;
  args.forward.lse = lse_of(lse_.emplace("lse", given_.lse), shape, "q");
  if (!given_.dlse.is_none()) args.dlse = lse_of(dlse_.emplace("dlse", given_.dlse), shape, "q");
  if (!given_.delta.is_none()) args.delta = lse_of(delta_.emplace("delta", given_.delta), shape, "q");
}

void BackwardCall::set(const Terms& terms, const TermGradients& wanted) {
  set_terms(terms, wanted);
}

void BackwardCall::plan(const Terms& terms, const TermGradients& wanted) {
  is_planned_ = true;
  set_terms(terms, wanted);
}

void BackwardCall::set_terms(const Terms& terms, const TermGradients& wanted) {
  forward_.set(terms);
  args.forward = forward_.args;
  args.dq = gradient("dq", given_.dq, q_, args.forward.q, &dq_);
  args.dk = gradient("dk", given_.dk, k_, args.forward.k, &dk_);
  args.dv = gradient("dv", given_.dv, v_, args.forward.v, &dv_);
  if (args.forward.sinks) {
    set_dsinks(terms.sinks);
  } else if (!given_.dsinks.is_none()) {
    wrong_value("dsinks", "given", "None, as sinks is None");
  }
  if (wanted.bias || !given_.dbias.is_none()) set_dbias(terms.bias);
  if (wanted.alibi_slopes || !given_.dalibi_slopes.is_none()) set_dalibi_slopes(terms.alibi_slopes);
}

Tensor BackwardCall::gradient(const char* name, nb::handle given, nb::handle like, const ConstTensor& of,
                              std::optional<Output>* output) const {
  if (is_planned_ && given.is_none()) return without_memory(layout_, of.shape, of.dtype);
  const auto shape = ordered(layout_, of.shape[0], of.shape[1], of.shape[2], of.shape[3]);
  return output_of(output->emplace(name, given, like, shape, Output::Type::as_like).tensor(), layout_);
}

void BackwardCall::set_dsinks(nb::handle sinks) {
  args.dsinks = &planned_floats_;
  if (is_planned_) return;
  const Imported like("sinks", sinks);
  const Imported& tensor =
      dsinks_.emplace("dsinks", given_.dsinks, q_, shape_of(like), Output::Type::float32).tensor();
  args.dsinks = floats_of(tensor, like);
}

void BackwardCall::set_dbias(nb::handle bias) {
  if (bias.is_none()) wrong_value("dbias", "wanted", "not wanted, as bias is None");
  const Imported like("bias", bias);
  if (is_planned_ && given_.dbias.is_none()) {
    args.dbias = contiguous_term(like, args.forward.bias.shape);
    return;
  }
  const Imported& tensor =
      dbias_.emplace("dbias", given_.dbias, bias, shape_of(like), Output::Type::as_like).tensor();
  expect_shape_of(tensor, like);
  const ConstTensor to = score_term_of(tensor, args.forward.bias.shape);
  args.dbias = {const_cast<void*>(to.data), to.shape, to.stride, to.dtype};
}

void BackwardCall::set_dalibi_slopes(nb::handle slopes) {
  if (slopes.is_none()) wrong_value("dalibi_slopes", "wanted", "not wanted, as alibi_slopes is None");
  const Imported like("alibi_slopes", slopes);
  AttentionArgs& forward = args.forward;
  const std::int64_t heads = forward.q.shape[1];
  if (like.ndim == 2 && forward.alibi_batch_stride != heads) {  // The gradient lies as the slopes do.
    for (std::int64_t b = 0; b < like.size(-2) && !is_planned_; ++b) {
      const float* const row = forward.alibi_slopes + b * forward.alibi_batch_stride;
      dense_slopes_.insert(dense_slopes_.end(), row, row + heads);
    }
    if (!is_planned_) forward.alibi_slopes = dense_slopes_.data();
    forward.alibi_batch_stride = heads;
  }
  args.dalibi_slopes = &planned_floats_;
  if (is_planned_) return;
  const Imported& tensor =
      dalibi_slopes_
          .emplace("dalibi_slopes", given_.dalibi_slopes, slopes, shape_of(like), Output::Type::float32)
          .tensor();
  args.dalibi_slopes = floats_of(tensor, like);
}

/// For the library a dbias over no queries or no keys has no elements; here it is shaped as its bias, and
/// what it is broadcast to nothing is a sum of nothing.
void BackwardCall::clear_dbias_of_nothing() const {
  const auto& scores = args.dbias.shape;
  if (!dbias_ || std::find(scores.begin(), scores.end(), 0) == scores.end()) return;
  const Imported& tensor = dbias_->tensor();
  std::int64_t count = 1;
  for (int i = -tensor.ndim; i < 0; ++i) count *= tensor.size(i);
  for (std::int64_t n = 0; n < count; ++n) {
    std::int64_t left = n, at = 0;
    for (int i = -1; i >= -tensor.ndim; --i) {
      at += left % tensor.size(i) * tensor.step(i);
      left /= tensor.size(i);
    }
    std::memset(tensor.data + at * tensor.item_bytes(), 0, static_cast<std::size_t>(tensor.item_bytes()));
  }
}

nb::tuple BackwardCall::result() const {
  clear_dbias_of_nothing();
  nb::list all;
  for (const auto* output : {&dq_, &dk_, &dv_, &dsinks_, &dbias_, &dalibi_slopes_}) {
    if (*output) all.append((*output)->result());
  }
  return nb::tuple(all);
}

namespace {

nb::object attention_backward_call(nb::handle q, nb::handle k, nb::handle v, const nb::tuple& tensors,
                                   const nb::tuple& settings, const nb::tuple& terms, nb::handle return_dbias,
                                   nb::handle return_dalibi_slopes, nb::handle layout, nb::handle context) {
  const TermGradients wanted{flag_of("return_dbias", return_dbias),
                             flag_of("return_dalibi_slopes", return_dalibi_slopes)};
  BackwardCall call(q, k, v, unpacked<GradientTensors>(tensors), layout_of(layout));
  call.set(unpacked<Settings>(settings));
  call.set(unpacked<Terms>(terms), wanted);
  call.set_rows();
  const Context chosen = context_of(context);
  without_gil([&] { return renamed_backward(attention_backward(chosen, call.args)); });
  return call.result();
}

}  // namespace

void bind_backward(nb::module_& module) {
  using nb::arg;
  module.def("attention_backward", &attention_backward_call, arg("q").none(), arg("k").none(),
             arg("v").none(), arg("tensors"), arg("settings"), arg("terms"), arg("return_dbias").none(),
             arg("return_dalibi_slopes").none(), arg("layout").none(), arg("context").none());
}

}  // namespace kumiko::python
