// SPDX-License-Identifier: Apache-2.0
// The checks of softmax_pv.
#include <string>

#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

Status check_shapes(const SoftmaxPvArgs& a) {
  const auto& scores = a.scores.shape;
  if (a.v.shape[3] < 1 || a.v.shape[3] > kMaxHeadDim)
    return invalid(element("v", "shape", 3), a.v.shape[3], "1..576");
  if (Status s = check_equal("v", 0, a.v.shape[0], "scores.shape[0]", scores[0]); !s.ok()) return s;
  if (Status s = check_equal("v", 2, a.v.shape[2], "scores.shape[3] (kv_len)", scores[3]); !s.ok()) return s;
  for (int i = 0; i < 3; ++i) {
    if (Status s = check_equal("out", i, a.out.shape[i], "scores.shape", scores[i]); !s.ok()) return s;
  }
  if (Status s = check_equal("out", 3, a.out.shape[3], "v.shape[3]", a.v.shape[3]); !s.ok()) return s;
  if (scores[1] > 0 && (a.v.shape[1] == 0 || scores[1] % a.v.shape[1] != 0)) {
    return invalid(element("v", "shape", 1), a.v.shape[1],
                   "a divisor of scores.shape[1] (q_heads), which is " + std::to_string(scores[1]));
  }
  return {};
}

Status check_types(const SoftmaxPvArgs& a) {
  if (a.scores.dtype != DataType::f32 && a.scores.dtype != DataType::i32)
    return invalid("scores.dtype", name_of(a.scores.dtype), "f32 or i32");
  if (a.out.dtype != a.v.dtype && a.out.dtype != DataType::f32)
    return invalid("out.dtype", name_of(a.out.dtype), name_of(a.v.dtype) + ", as in v, or f32");
  return {};
}

Status check_memory(const SoftmaxPvArgs& a, const std::array<std::int64_t, 3>& lse_stride) {
  const Span out = span_of(a.out), scores = span_of(a.scores), v = span_of(a.v);
  if (out.empty()) return {};  // nothing to compute, so nothing is read
  if (Status s = check_data("scores", a.scores.data, scores, a.scores.dtype); !s.ok()) return s;
  if (Status s = check_data("v", a.v.data, v, a.v.dtype); !s.ok()) return s;
  if (Status s = check_data("out", a.out.data, out, a.out.dtype); !s.ok()) return s;
  const Span lse =
      a.lse.data ? span_of(a.lse.data, a.out.shape.data(), lse_stride.data(), 3, DataType::f32) : Span{};
  if (Status s = check_data("lse", a.lse.data, lse, DataType::f32); !s.ok()) return s;
  if (overlap(out, scores)) return invalid("out.data", hex(a.out.data), "memory apart from scores");
  if (overlap(out, v)) return invalid("out.data", hex(a.out.data), "memory apart from v");
  if (overlap(lse, scores)) return invalid("lse.data", hex(a.lse.data), "memory apart from scores");
  if (overlap(lse, v)) return invalid("lse.data", hex(a.lse.data), "memory apart from v");
  if (overlap(out, lse)) return invalid("lse.data", hex(a.lse.data), "memory apart from out");
  return {};
}

}  // namespace

Status validate_softmax_pv(const SoftmaxPvArgs& a) {
  if (Status s = check_rows("scores", a.scores); !s.ok()) return s;
  if (Status s = check_view("v", a.v); !s.ok()) return s;
  if (Status s = check_view("out", a.out); !s.ok()) return s;
  if (Status s = check_types(a); !s.ok()) return s;
  if (Status s = check_shapes(a); !s.ok()) return s;
  const auto lse = lse_strides(a.lse.stride, a.out.shape);
  if (Status s = check_lse("lse", lse, a.out.shape.data()); !s.ok()) return s;
  if (!span_of(a.out).empty()) {
    if (Status s = check_apart("out", a.out.shape.data(), a.out.stride.data(), 4); !s.ok()) return s;
    if (Status s = check_apart("lse", a.out.shape.data(), lse.data(), 3); !s.ok()) return s;
  }
  if (Status s = check_scale(a.scale, "a finite factor"); !s.ok()) return s;
  if (Status s = check_visibility(a, a.scores.shape[0], a.scores.shape[3]); !s.ok()) return s;
  if (Status s = check_precision(a.precision); !s.ok()) return s;
  if (Status s = check_pipeline(a.pipeline); !s.ok()) return s;
  if (a.pipeline == Pipeline::decode) {
    return {Code::unsupported,
            "pipeline is decode (2); expected automatic (0) or another pipeline, as decode takes no scores"};
  }
  return check_memory(a, lse);
}

}  // namespace kumiko
