// SPDX-License-Identifier: Apache-2.0
// The checks of attention_backward, beside those of its forward call.
#include <algorithm>
#include <array>
#include <string>

#include "runtime/attention_backward.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

Status check_supported(const AttentionArgs& a) {
  const auto unsupported = [](const std::string& what) -> Status {
    return {Code::unsupported, "forward." + what + ", as attention_backward does not support it yet"};
  };
  const struct {
    bool is_used;
    const char* what;
  } fields[] = {
      {a.block_table != nullptr, "block_table is given; expected null"},
      {a.tree_mask != nullptr, "tree_mask is given; expected null"},
      {a.bsr_indptr != nullptr, "bsr_indptr is given; expected null"},
      {a.row_max.data != nullptr, "row_max is given; expected null"},
      {a.precision == Precision::int8, "precision is int8 (3); expected automatic, standard or half"},
      {a.q.dtype == DataType::i8, "q.dtype is i8; expected f32, bf16 or f16"}};
  for (const auto& field : fields) {
    if (field.is_used) return unsupported(field.what);
  }
  if (a.window_sink_tokens != 0)
    return unsupported("window_sink_tokens is " + std::to_string(a.window_sink_tokens) + "; expected 0");
  return {};
}

/// An error of a field of the forward call under the name that it has here.
Status of_forward(const Status& status) {
  if (status.ok()) return {};
  return {status.code(), "forward." + status.message()};
}

ConstTensor as_input(const Tensor& tensor) {
  return {tensor.data, tensor.shape, tensor.stride, tensor.dtype};
}

/// A tensor of the shape of one of the forward call.
template <class View>
Status check_like(const char* name, const View& view, const char* other,
                  const std::array<std::int64_t, 4>& shape) {
  if (Status s = check_view(name, view); !s.ok()) return s;
  for (int i = 0; i < 4; ++i) {
    if (Status s = check_equal(name, i, view.shape[i], other, shape[i]); !s.ok()) return s;
  }
  return {};
}

Status check_gradient(const char* name, const Tensor& view, const char* other, const ConstTensor& like) {
  if (Status s = check_like(name, view, other, like.shape); !s.ok()) return s;
  return empty(view.shape) ? Status{} : check_apart(name, view.shape.data(), view.stride.data(), 4);
}

/// Like a bias, but no two of its elements share memory, except along whole dimensions.
Status check_bias_gradient(const Tensor& dbias, const ConstTensor& bias) {
  if (!is_present(as_input(dbias))) return {};
  if (!is_present(bias)) return invalid("dbias", "given", "none, as forward.bias is not given");
  if (Status s = check_float("dbias", dbias.dtype); !s.ok()) return s;
  if (Status s = check_extent("dbias", dbias); !s.ok()) return s;
  std::array<std::int64_t, 4> own = dbias.shape;
  for (int i = 0; i < 4; ++i) {
    const auto dim = static_cast<std::size_t>(i);
    if (Status s = check_equal("dbias", i, dbias.shape[dim], "forward.bias", bias.shape[dim]); !s.ok())
      return s;
    if (dbias.stride[dim] == 0) own[dim] = std::min<std::int64_t>(own[dim], 1);
  }
  return empty(dbias.shape) ? Status{} : check_apart("dbias", own.data(), dbias.stride.data(), 4);
}

Status check_row_values(const char* name, const LseView& view, const AttentionArgs& a) {
  return check_lse(name, lse_strides(view.stride, a.q.shape), a.q.shape.data());
}

Status check_tensors(const BackwardArgs& b) {
  const AttentionArgs& a = b.forward;
  if (Status s = check_like("dout", b.dout, "forward.out", a.out.shape); !s.ok()) return s;
  if (Status s = check_row_values("dlse", b.dlse, a); !s.ok()) return s;
  if (Status s = check_row_values("delta", b.delta, a); !s.ok()) return s;
  if (Status s = check_gradient("dq", b.dq, "forward.q", a.q); !s.ok()) return s;
  if (Status s = check_gradient("dk", b.dk, "forward.k", a.k); !s.ok()) return s;
  if (Status s = check_gradient("dv", b.dv, "forward.v", a.v); !s.ok()) return s;
  if (b.dsinks && !a.sinks) return invalid("dsinks", "given", "null, as forward.sinks is null");
  if (b.dalibi_slopes && !a.alibi_slopes)
    return invalid("dalibi_slopes", "given", "null, as forward.alibi_slopes is null");
  return check_bias_gradient(b.dbias, a.bias);
}

struct Memory {
  const char* name;
  const void* data;
  Span span;
  DataType type;
  const char* field = "";  ///< ".data" of a view
};

template <class View>
Memory memory_of(const char* name, const View& view) {
  return {name, view.data, span_of(view), view.dtype, ".data"};
}
Memory memory_of(const char* name, const float* data, const std::int64_t* shape, const std::int64_t* stride,
                 int dims) {
  return {name, data, data ? span_of(data, shape, stride, dims, DataType::f32) : Span{}, DataType::f32};
}
Memory memory_of(const char* name, const LseView& view, const AttentionArgs& a) {
  const auto stride = lse_strides(view.stride, a.q.shape);
  Memory memory = memory_of(name, view.data, a.q.shape.data(), stride.data(), 3);
  memory.field = ".data";
  return memory;
}

Status check_memory(const BackwardArgs& b) {
  const AttentionArgs& a = b.forward;
  const std::int64_t one = 1, slopes_shape[2] = {number_of_sequences(a), a.q.shape[1]},
                     slopes_stride[2] = {a.alibi_batch_stride, 1};
  const Memory inputs[] = {
      memory_of("dout", b.dout), memory_of("dlse", b.dlse, a), memory_of("delta", b.delta, a),
      // Those of the forward call have passed validate_pointers().
      memory_of("forward.q", a.q), memory_of("forward.k", a.k), memory_of("forward.v", a.v),
      memory_of("forward.out", a.out), memory_of("forward.lse", a.lse, a), memory_of("forward.bias", a.bias),
      memory_of("forward.mask", a.mask),
      memory_of("forward.alibi_slopes", a.alibi_slopes, slopes_shape, slopes_stride, 2),
      memory_of("forward.sinks", a.sinks, &a.q.shape[1], &one, 1)};
  const Memory outputs[] = {memory_of("dq", b.dq),
                            memory_of("dk", b.dk),
                            memory_of("dv", b.dv),
                            memory_of("dsinks", b.dsinks, &a.q.shape[1], &one, 1),
                            memory_of("dbias", b.dbias),
                            memory_of("dalibi_slopes", b.dalibi_slopes, slopes_shape, slopes_stride, 2)};
  for (const Memory& input : {inputs[0], inputs[1], inputs[2]}) {
    if (Status s = check_pointer(input.name, input.data, input.span, input.type, input.field); !s.ok())
      return s;
  }
  const auto apart = [](const Memory& output, const Memory& other) {
    if (!overlap(output.span, other.span)) return Status{};
    return invalid(std::string(output.name) + output.field, hex(output.data),
                   std::string("memory apart from ") + other.name);
  };
  for (const Memory& output : outputs) {
    if (Status s = check_pointer(output.name, output.data, output.span, output.type, output.field); !s.ok())
      return s;
    for (const Memory& input : inputs) {
      if (Status s = apart(output, input); !s.ok()) return s;
    }
    for (const Memory* before = outputs; before != &output; ++before) {
      if (Status s = apart(output, *before); !s.ok()) return s;
    }
  }
  return {};
}

}  // namespace

Status validate_backward_problem(const BackwardArgs& args) {
  if (Status s = of_forward(validate_problem(args.forward)); !s.ok()) return s;
  if (Status s = check_supported(args.forward); !s.ok()) return s;
  return check_tensors(args);
}

Status validate_backward_pointers(const BackwardArgs& args) {
  if (!args.forward.lse.data && !empty(args.forward.q.shape))
    return invalid("forward.lse.data", "null", "what the forward call wrote");
  if (Status s = of_forward(validate_pointers(args.forward)); !s.ok()) return s;
  return check_memory(args);
}

Status validate_same_backward(const BackwardArgs& args, const BackwardArgs& planned, bool has_dsinks,
                              bool has_dalibi_slopes, const Problem& problem) {
  if (Status s = of_forward(validate_same_problem(args.forward, planned.forward, problem)); !s.ok()) return s;
  // The fields that a plan of the forward call leaves to each run, such as row_max, are checked here.
  if (Status s = check_supported(args.forward); !s.ok()) return s;
  const struct {
    const char* name;
    ConstTensor given, planned;
  } views[] = {{"dout", args.dout, planned.dout},
               {"dq", as_input(args.dq), as_input(planned.dq)},
               {"dk", as_input(args.dk), as_input(planned.dk)},
               {"dv", as_input(args.dv), as_input(planned.dv)},
               {"dbias", as_input(args.dbias), as_input(planned.dbias)}};
  for (const auto& view : views) {
    if (Status s = check_same_view(view.name, view.given, view.planned); !s.ok()) return s;
  }
  if (Status s = check_same_presence("dsinks", args.dsinks, has_dsinks); !s.ok()) return s;
  if (Status s = check_same_presence("dalibi_slopes", args.dalibi_slopes, has_dalibi_slopes); !s.ok())
    return s;
  if (Status s = check_tensors(args); !s.ok()) return s;
  return validate_backward_pointers(args);
}

}  // namespace kumiko
