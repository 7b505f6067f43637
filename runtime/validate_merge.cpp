// SPDX-License-Identifier: Apache-2.0
// The checks of merge_states.
#include <string>

#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {

Status validate_merge(std::span<const AttentionState> states, const Tensor& out, const LseView& lse) {
  if (states.empty()) return invalid("states", "empty", "at least one state");
  if (Status s = check_view("out", out); !s.ok()) return s;
  if (out.shape[3] < 1 || out.shape[3] > kMaxHeadDim)
    return invalid(element("out", "shape", 3), out.shape[3], "1..576");
  std::int64_t count = 0;
  const auto dense_lse = lse_strides(lse.stride, out.shape);
  if (Status s = check_lse("lse", dense_lse, out.shape.data()); !s.ok()) return s;
  if (count_of(out.shape.data(), 4, &count) && count > 0) {
    if (Status s = check_apart("out", out.shape.data(), out.stride.data(), 4); !s.ok()) return s;
    if (Status s = check_apart("lse", out.shape.data(), dense_lse.data(), 3); lse.data && !s.ok()) return s;
  }
  const Span out_span = span_of(out),
             lse_span =
                 lse.data ? span_of(lse.data, out.shape.data(), dense_lse.data(), 3, DataType::f32) : Span{};
  if (Status s = check_data("out", out.data, out_span, out.dtype); !s.ok()) return s;
  if (lse.data) {
    if (Status s = check_data("lse", lse.data, lse_span, DataType::f32); !s.ok()) return s;
  }
  for (std::size_t n = 0; n < states.size(); ++n) {
    const std::string name = "states[" + std::to_string(n) + "]", out_name = name + ".out",
                      lse_name = name + ".lse";
    const AttentionState& state = states[n];
    if (Status s = check_view(out_name.c_str(), state.out); !s.ok()) return s;
    for (int i = 0; i < 4; ++i) {
      if (Status s = check_equal(out_name.c_str(), i, state.out.shape[i], "out.shape", out.shape[i]); !s.ok())
        return s;
    }
    if (state.out.dtype != states[0].out.dtype)
      return invalid(out_name + ".dtype", name_of(state.out.dtype),
                     name_of(states[0].out.dtype) + ", as in states[0].out");
    const auto stride = lse_strides(state.lse_stride, out.shape);
    if (Status s = check_lse(name.c_str(), stride, out.shape.data(), "lse_stride"); !s.ok()) return s;
    const Span data = span_of(state.out),
               sums = span_of(state.lse, out.shape.data(), stride.data(), 3, DataType::f32);
    if (Status s = check_data(out_name.c_str(), state.out.data, data, state.out.dtype); !s.ok()) return s;
    if (Status s = check_pointer(lse_name.c_str(), state.lse, sums, DataType::f32); !s.ok()) return s;
    // In place is safe only for the same view: each element is then read before it is written.
    const bool same_out =
        state.out.data == out.data && state.out.stride == out.stride && state.out.dtype == out.dtype;
    const bool same_lse = state.lse == lse.data && stride == dense_lse;
    if (!same_out && overlap(out_span, data))
      return invalid("out.data", hex(out.data),
                     "that of " + out_name + " with its strides and type, or memory apart from it");
    if (!same_lse && overlap(lse_span, sums))
      return invalid("lse.data", hex(lse.data),
                     "that of " + lse_name + " with its strides, or memory apart from it");
    if (overlap(out_span, sums)) return invalid("out.data", hex(out.data), "memory apart from " + lse_name);
    if (overlap(lse_span, data)) return invalid("lse.data", hex(lse.data), "memory apart from " + out_name);
  }
  if (out.dtype != states[0].out.dtype && out.dtype != DataType::f32)
    return invalid("out.dtype", name_of(out.dtype),
                   name_of(states[0].out.dtype) + ", as in states[0].out, or f32");
  if (overlap(out_span, lse_span)) return invalid("lse.data", hex(lse.data), "memory apart from out");
  return {};
}

}  // namespace kumiko
