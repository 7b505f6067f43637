// SPDX-License-Identifier: Apache-2.0
// quantize_rows: queries and keys of attention to int8.
#include "kernels/int8_scores/quantize.h"

#include <algorithm>

#include "kernels/float_state.h"
#include "runtime/attention.h"
#include "runtime/context.h"
#include "runtime/problem.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

constexpr std::int64_t kQuantizeTaskRows = 256;  // 128 KiB of rows of 128 f32

Status validate(const ConstTensor& x, const Tensor& out, const LseView& scale) {
  if (Status s = check_view("x", x); !s.ok()) return s;
  if (out.dtype != DataType::i8) return invalid("out.dtype", name_of(out.dtype), "i8");
  if (Status s = check_rows("out", out); !s.ok()) return s;
  for (int i = 0; i < 4; ++i) {
    if (Status s = check_equal("out", i, out.shape[static_cast<std::size_t>(i)], "x.shape",
                               x.shape[static_cast<std::size_t>(i)]);
        !s.ok())
      return s;
  }
  const auto stride = lse_strides(scale.stride, x.shape);
  if (Status s = check_lse("scale", stride, x.shape.data()); !s.ok()) return s;
  if (empty(x.shape)) return {};
  if (Status s = check_apart("out", out.shape.data(), out.stride.data(), 4); !s.ok()) return s;
  if (Status s = check_apart("scale", x.shape.data(), stride.data(), 3); !s.ok()) return s;
  const Span from = span_of(x), to = span_of(out),
             scales = span_of(scale.data, x.shape.data(), stride.data(), 3, DataType::f32);
  if (Status s = check_data("x", x.data, from, x.dtype); !s.ok()) return s;
  if (Status s = check_data("out", out.data, to, DataType::i8); !s.ok()) return s;
  if (Status s = check_data("scale", scale.data, scales, DataType::f32); !s.ok()) return s;
  if (overlap(to, from)) return invalid("out.data", hex(out.data), "memory apart from x");
  if (overlap(scales, from)) return invalid("scale.data", hex(scale.data), "memory apart from x");
  if (overlap(scales, to)) return invalid("scale.data", hex(scale.data), "memory apart from out");
  return {};
}

struct Rows {
  const ConstTensor& x;
  const Tensor& out;
  float* scale;
  std::array<std::int64_t, 3> scale_stride;
  std::int64_t count;
  kernels::Isa isa;
};

void quantize_rows_of_task(void* context, std::int32_t task, const scheduler::Slot&) noexcept {
  const Rows& rows = *static_cast<const Rows*>(context);
  const kernels::FloatState float_state(rows.isa);
  const std::int64_t heads = rows.x.shape[1], seq = rows.x.shape[2], first = task * kQuantizeTaskRows;
  const kernels::Element element = element_of(rows.x.dtype);
  for (std::int64_t row = first; row < std::min(first + kQuantizeTaskRows, rows.count); ++row) {
    const std::int64_t at[3] = {row / seq / heads, row / seq % heads, row % seq};
    const auto offset = [&](const auto& stride) {
      return at[0] * stride[0] + at[1] * stride[1] + at[2] * stride[2];
    };
    kernels::quantize_row(element, kernels::element_at(element, rows.x.data, offset(rows.x.stride)),
                          rows.x.shape[3], static_cast<std::int8_t*>(rows.out.data) + offset(rows.out.stride),
                          rows.scale + offset(rows.scale_stride));
  }
}

}  // namespace

Status quantize_rows(const Context& context, const ConstTensor& x, const Tensor& out, const LseView& scale) {
  return guarded([&]() -> Status {
    if (Status s = check_context(context); !s.ok()) return s;
    if (Status s = validate(x, out, scale); !s.ok()) return s;
    if (empty(x.shape)) return {};
    const Context::Impl& runtime = *impl_of(context);
    Rows rows{
        x,          out, scale.data, lse_strides(scale.stride, x.shape), x.shape[0] * x.shape[1] * x.shape[2],
        runtime.isa};
    return run_equal_tasks(runtime, "x.shape", (rows.count + kQuantizeTaskRows - 1) / kQuantizeTaskRows,
                           quantize_rows_of_task, &rows, 0);
  });
}

}  // namespace kumiko
