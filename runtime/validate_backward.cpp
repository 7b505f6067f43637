// SPDX-License-Identifier: Apache-2.0
// The checks of attention_backward, beside those of its forward call.
#include <string>

#include "runtime/attention_backward.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

Status check_supported(const AttentionArgs& a) {
  const struct {
    bool is_used;
    const char* what;
  } fields[] = {{a.block_table != nullptr, "block_table is given; expected null"},
                {a.tree_mask != nullptr, "tree_mask is given; expected null"},
                {a.bsr_indptr != nullptr, "bsr_indptr is given; expected null"},
                {a.window_sink_tokens != 0, "window_sink_tokens is not 0; expected 0"},
                {a.row_max.data != nullptr, "row_max is given; expected null"},
                {a.precision == Precision::half, "precision is half (2); expected automatic or standard"},
                {a.precision == Precision::int8, "precision is int8 (3); expected automatic or standard"},
                {a.q.dtype == DataType::i8, "q.dtype is i8; expected f32, bf16 or f16"}};
  for (const auto& field : fields) {
    if (field.is_used)
      return {Code::unsupported,
              std::string("forward.") + field.what + ", as attention_backward has it not yet"};
  }
  return {};
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

Status check_tensors(const BackwardArgs& b) {
  const AttentionArgs& a = b.forward;
  if (!a.lse.data && !empty(a.q.shape))
    return invalid("forward.lse.data", "null", "what the forward call wrote");
  if (Status s = check_like("dout", b.dout, "forward.out", a.out.shape); !s.ok()) return s;
  if (Status s = check_lse("dlse", lse_strides(b.dlse.stride, a.q.shape), a.q.shape.data()); !s.ok())
    return s;
  if (Status s = check_gradient("dq", b.dq, "forward.q", a.q); !s.ok()) return s;
  if (Status s = check_gradient("dk", b.dk, "forward.k", a.k); !s.ok()) return s;
  if (Status s = check_gradient("dv", b.dv, "forward.v", a.v); !s.ok()) return s;
  if (b.dsinks && !a.sinks) return invalid("dsinks", "given", "null, as forward.sinks is null");
  return {};
}

struct Memory {
  const char* name;
  const void* data;
  Span span;
  DataType type;
};

template <class View>
Memory memory_of(const char* name, const View& view) {
  return {name, view.data, span_of(view), view.dtype};
}
Memory memory_of(const char* name, const float* data, const std::int64_t* shape, const std::int64_t* stride,
                 int dims) {
  return {name, data, data ? span_of(data, shape, stride, dims, DataType::f32) : Span{}, DataType::f32};
}
Memory memory_of(const char* name, const LseView& view, const AttentionArgs& a) {
  const auto stride = lse_strides(view.stride, a.q.shape);
  return memory_of(name, view.data, a.q.shape.data(), stride.data(), 3);
}

Status check_memory(const BackwardArgs& b) {
  const AttentionArgs& a = b.forward;
  const std::int64_t one = 1, slopes_shape[2] = {number_of_sequences(a), a.q.shape[1]},
                     slopes_stride[2] = {a.alibi_batch_stride, 1};
  const Memory inputs[] = {memory_of("dout", b.dout), memory_of("dlse", b.dlse, a),
                           // Those of the forward call have passed validate_pointers().
                           memory_of("forward.q", a.q), memory_of("forward.k", a.k),
                           memory_of("forward.v", a.v), memory_of("forward.out", a.out),
                           memory_of("forward.lse", a.lse, a), memory_of("forward.bias", a.bias),
                           memory_of("forward.mask", a.mask),
                           memory_of("forward.alibi_slopes", a.alibi_slopes, slopes_shape, slopes_stride, 2),
                           memory_of("forward.sinks", a.sinks, &a.q.shape[1], &one, 1)};
  const Memory outputs[] = {memory_of("dq", b.dq), memory_of("dk", b.dk), memory_of("dv", b.dv),
                            memory_of("dsinks", b.dsinks, &a.q.shape[1], &one, 1)};
  for (const Memory& input : {inputs[0], inputs[1]}) {
    if (Status s = check_pointer(input.name, input.data, input.span, input.type); !s.ok()) return s;
  }
  const auto apart = [](const Memory& output, const Memory& other) {
    if (!overlap(output.span, other.span)) return Status{};
    return invalid(std::string(output.name) + ".data", hex(output.data),
                   std::string("memory apart from ") + other.name);
  };
  for (const Memory& output : outputs) {
    if (Status s = check_pointer(output.name, output.data, output.span, output.type); !s.ok()) return s;
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

Status validate_backward(const BackwardArgs& args) {
  if (Status s = validate_problem(args.forward); !s.ok()) return s;
  if (Status s = check_supported(args.forward); !s.ok()) return s;
  if (Status s = check_tensors(args); !s.ok()) return s;
  if (Status s = validate_pointers(args.forward); !s.ok()) return s;
  return check_memory(args);
}

}  // namespace kumiko
