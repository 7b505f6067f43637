#include "runtime/validate.h"

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

namespace kumiko {
namespace {

constexpr const char* kDims[4] = {"batch", "heads", "seq", "head_dim"};
constexpr std::int64_t kMaxLength = std::numeric_limits<std::int32_t>::max();

Status bad(const std::string& what, const std::string& value, const std::string& expected) {
  return {Code::invalid_argument, what + " is " + value + "; expected " + expected};
}
Status bad(const std::string& what, std::int64_t value, const std::string& expected) {
  return bad(what, std::to_string(value), expected);
}

std::string element(const char* name, const char* field, int i) {
  return std::string(name) + "." + field + "[" + std::to_string(i) + "]" + " (" + kDims[i] + ")";
}

constexpr std::int64_t bytes_of(DataType type) {
  return type == DataType::f32 ? 4 : type == DataType::boolean ? 1 : 2;
}
const char* name_of(DataType type) {
  constexpr const char* kNames[] = {"f32", "bf16", "f16", "boolean"};
  return kNames[static_cast<int>(type)];
}

/// Distance in elements from the first to one past the last element; false when it does not fit in bytes of
/// int64, an element taken as 4 bytes.
bool extent_of(const std::int64_t* shape, const std::int64_t* stride, int dims, std::int64_t* extent) {
  std::int64_t last = 0;
  for (int i = 0; i < dims; ++i) {
    std::int64_t step = 0;
    if (shape[i] == 0) return *extent = 0, true;
    if (__builtin_mul_overflow(shape[i] - 1, stride[i], &step) || __builtin_add_overflow(last, step, &last))
      return false;
  }
  std::int64_t bytes = 0;
  if (__builtin_add_overflow(last, 1, &last) ||
      __builtin_mul_overflow(last, std::int64_t{sizeof(float)}, &bytes))
    return false;
  *extent = last;
  return true;
}

bool count_of(const std::int64_t* shape, int dims, std::int64_t* count) {
  *count = 1;
  for (int i = 0; i < dims; ++i) {
    if (shape[i] == 0) return *count = 0, true;
  }
  for (int i = 0; i < dims; ++i) {
    if (__builtin_mul_overflow(*count, shape[i], count)) return false;
  }
  return *count <= std::numeric_limits<std::int64_t>::max() / static_cast<std::int64_t>(sizeof(float));
}

/// No two index tuples of an output share an element: dims in order of stride must each step over all smaller
/// ones.
int overlapping_dim(const std::int64_t* shape, const std::int64_t* stride, int dims) {
  bool seen[4] = {};
  std::int64_t reach = 1;  // elements covered by the dims taken so far
  for (int taken = 0; taken < dims; ++taken) {
    int next = -1;
    for (int i = 0; i < dims; ++i) {
      if (!seen[i] &&
          (next < 0 || stride[i] < stride[next] || (stride[i] == stride[next] && shape[i] < shape[next])))
        next = i;
    }
    seen[next] = true;
    if (shape[next] <= 1) continue;
    if (stride[next] < reach) return next;
    reach = (shape[next] - 1) * stride[next] + reach;
  }
  return -1;
}

Status check_equal(const char* name, int dim, std::int64_t value, const char* other, std::int64_t expected) {
  if (value == expected) return {};
  return bad(element(name, "shape", dim), value, std::to_string(expected) + ", as in " + other);
}

bool empty(const std::array<std::int64_t, 4>& shape) {
  return shape[0] == 0 || shape[1] == 0 || shape[2] == 0 || shape[3] == 0;
}

template <class View>
Status check_extent(const char* name, const View& view) {
  for (int i = 0; i < 4; ++i) {
    if (view.shape[i] < 0 || view.shape[i] > kMaxLength)
      return bad(element(name, "shape", i), view.shape[i], "0..2147483647");
  }
  std::int64_t count = 0, extent = 0;
  if (!count_of(view.shape.data(), 4, &count)) {
    return bad(std::string(name) + ".shape", "a product beyond 2^63 bytes",
               "a tensor that fits in the address space");
  }
  if (count == 0) return {};
  for (int i = 0; i < 4; ++i) {
    if (view.stride[i] < 0) return bad(element(name, "stride", i), view.stride[i], "0 or more");
  }
  if (!extent_of(view.shape.data(), view.stride.data(), 4, &extent)) {
    return bad(std::string(name) + ".stride", "an extent beyond 2^63 bytes",
               "a tensor that fits in the address space");
  }
  return {};
}

template <class View>
Status check_view(const char* name, const View& view) {
  if (view.dtype > DataType::f16)
    return bad(std::string(name) + ".dtype", static_cast<int>(view.dtype), "f32 (0), bf16 (1) or f16 (2)");
  if (Status s = check_extent(name, view); !s.ok()) return s;
  if (view.stride[3] != 1 && view.shape[3] > 1 && !empty(view.shape))
    return bad(element(name, "stride", 3), view.stride[3], "1");
  return {};
}

/// [batch, q_heads, q_len, kv_len] in any strides.
Status check_score_view(const char* name, const ConstTensor& view, const AttentionArgs& a) {
  if (!given(view)) return {};
  if (Status s = check_extent(name, view); !s.ok()) return s;
  for (int i = 0; i < 3; ++i) {
    if (Status s = check_equal(name, i, view.shape[i], "q.shape", a.q.shape[i]); !s.ok()) return s;
  }
  return check_equal(name, 3, view.shape[3], "k.shape[2] (kv_len)", a.k.shape[2]);
}

Status check_apart(const char* name, const std::int64_t* shape, const std::int64_t* stride, int dims) {
  const int i = overlapping_dim(shape, stride, dims);
  if (i < 0) return {};
  return bad(element(name, "stride", i), stride[i], "a stride that keeps the output's elements apart");
}

Status check_types(const AttentionArgs& a) {
  for (auto [name, view] : {std::pair{"k", &a.k}, std::pair{"v", &a.v}}) {
    if (view->dtype != a.q.dtype) {
      return bad(std::string(name) + ".dtype", name_of(view->dtype),
                 std::string(name_of(a.q.dtype)) + ", as in q");
    }
  }
  if (a.out.dtype != a.q.dtype && a.out.dtype != DataType::f32) {
    return bad("out.dtype", name_of(a.out.dtype), std::string(name_of(a.q.dtype)) + ", as in q, or f32");
  }
  return {};
}

Status check_shapes(const AttentionArgs& a) {
  for (auto [name, dim] : {std::pair{"q", a.q.shape[3]}, std::pair{"v", a.v.shape[3]}}) {
    if (dim < 1 || dim > kMaxHeadDim) return bad(element(name, "shape", 3), dim, "1..576");
  }
  if (Status s = check_equal("k", 0, a.k.shape[0], "q.shape[0]", a.q.shape[0]); !s.ok()) return s;
  if (Status s = check_equal("k", 3, a.k.shape[3], "q.shape[3]", a.q.shape[3]); !s.ok()) return s;
  if (Status s = check_equal("v", 0, a.v.shape[0], "q.shape[0]", a.q.shape[0]); !s.ok()) return s;
  if (Status s = check_equal("v", 1, a.v.shape[1], "k.shape[1]", a.k.shape[1]); !s.ok()) return s;
  if (Status s = check_equal("v", 2, a.v.shape[2], "k.shape[2]", a.k.shape[2]); !s.ok()) return s;
  for (int i = 0; i < 3; ++i) {
    if (Status s = check_equal("out", i, a.out.shape[i], "q.shape", a.q.shape[i]); !s.ok()) return s;
  }
  if (Status s = check_equal("out", 3, a.out.shape[3], "v.shape[3]", a.v.shape[3]); !s.ok()) return s;
  const std::int64_t q_heads = a.q.shape[1], kv_heads = a.k.shape[1];
  if (q_heads > 0 && (kv_heads == 0 || q_heads % kv_heads != 0)) {
    return bad(element("k", "shape", 1), kv_heads,
               "a divisor of q.shape[1] (q_heads), which is " + std::to_string(q_heads));
  }
  return {};
}

Status check_lse(const char* name, const std::array<std::int64_t, 3>& stride, const std::int64_t* shape) {
  std::int64_t count = 0, extent = 0;
  if (!count_of(shape, 3, &count) || count == 0) return {};
  for (int i = 0; i < 3; ++i) {
    if (stride[i] < 0) return bad(element(name, "stride", i), stride[i], "0 or more");
  }
  if (!extent_of(shape, stride.data(), 3, &extent)) {
    return bad(std::string(name) + ".stride", "an extent beyond 2^63 bytes",
               "a tensor that fits in the address space");
  }
  return {};
}

Status check_lse(const AttentionArgs& a) {
  const auto stride = lse_strides(a);
  if (Status s = check_lse("lse", stride, a.q.shape.data()); !s.ok()) return s;
  std::int64_t count = 0;
  if (!count_of(a.q.shape.data(), 3, &count) || count == 0) return {};
  return check_apart("lse", a.q.shape.data(), stride.data(), 3);
}

Status check_terms(const AttentionArgs& a) {
  if (!std::isfinite(a.softcap) || a.softcap < 0.0f)
    return bad("softcap", std::to_string(a.softcap), "a finite cap above 0, or 0 for none");
  if (given(a.bias) && a.bias.dtype > DataType::f16)
    return bad("bias.dtype", static_cast<int>(a.bias.dtype), "f32 (0), bf16 (1) or f16 (2)");
  if (given(a.mask) && a.mask.dtype != DataType::boolean)
    return bad("mask.dtype", static_cast<int>(a.mask.dtype), "boolean (3)");
  if (Status s = check_score_view("bias", a.bias, a); !s.ok()) return s;
  if (Status s = check_score_view("mask", a.mask, a); !s.ok()) return s;
  if (a.alibi_batch_stride != 0 && a.alibi_batch_stride < a.q.shape[1]) {
    return bad("alibi_batch_stride", a.alibi_batch_stride,
               "0, or at least q.shape[1] (q_heads), which is " + std::to_string(a.q.shape[1]));
  }
  const std::int64_t shape[2] = {a.q.shape[0], a.q.shape[1]}, stride[2] = {a.alibi_batch_stride, 1};
  std::int64_t extent = 0;
  if (!extent_of(shape, stride, 2, &extent)) {
    return bad("alibi_batch_stride", a.alibi_batch_stride, "slopes that fit in the address space");
  }
  return {};
}

Status check_options(const AttentionArgs& a) {
  if (!std::isfinite(a.scale))
    return bad("scale",
               std::isnan(a.scale) ? "NaN"
               : a.scale > 0       ? "inf"
                                   : "-inf",
               "a finite factor, or 0 for 1 / sqrt(head_dim)");
  if (a.window_left < -1) return bad("window_left", a.window_left, "-1 (unlimited) or more");
  if (a.window_right < -1) return bad("window_right", a.window_right, "-1 (unlimited) or more");
  if (a.causal_alignment != CausalAlignment::bottom_right &&
      a.causal_alignment != CausalAlignment::top_left) {
    return bad("causal_alignment", static_cast<int>(a.causal_alignment), "bottom_right (0) or top_left (1)");
  }
  if (a.pipeline > Pipeline::decode)
    return bad("pipeline", static_cast<int>(a.pipeline), "automatic (0), online (1) or decode (2)");
  if (a.seqused_k) {
    for (std::int64_t b = 0; b < a.q.shape[0]; ++b) {
      if (a.seqused_k[b] < 0 || a.seqused_k[b] > a.k.shape[2]) {
        return bad("seqused_k[" + std::to_string(b) + "]", a.seqused_k[b],
                   "0.." + std::to_string(a.k.shape[2]) + " (kv_len)");
      }
    }
  }
  return {};
}

/// The bytes of a tensor. `dense`: it covers all of them.
struct Span {
  std::uintptr_t begin = 0, end = 0;
  bool dense = true;
  bool empty() const { return begin == end; }
};

Span span_of(const void* data, const std::int64_t* shape, const std::int64_t* stride, int dims,
             DataType type) {
  std::int64_t count = 0, extent = 0;
  if (!count_of(shape, dims, &count) || !extent_of(shape, stride, dims, &extent) || count == 0) return {};
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {begin, begin + static_cast<std::uintptr_t>(extent * bytes_of(type)), count >= extent};
}
template <class View>
Span span_of(const View& view) {
  return span_of(view.data, view.shape.data(), view.stride.data(), 4, view.dtype);
}

/// Two dense spans that meet do overlap. A strided view may lie in the gaps of another (a fused QKV buffer):
/// there only an equal start is certain.
bool overlap(const Span& a, const Span& b) {
  if (a.empty() || b.empty() || a.end <= b.begin || b.end <= a.begin) return false;
  return (a.dense && b.dense) || a.begin == b.begin;
}

std::string hex(const void* p) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", p);
  return text;
}

Status check_pointer(const char* name, const void* data, const Span& span, DataType type) {
  if (span.empty()) return {};
  if (!data) return bad(std::string(name) + ".data", "null", "a tensor");
  const std::int64_t bytes = bytes_of(type);
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) != 0)
    return bad(std::string(name) + ".data", hex(data),
               "an address aligned to " + std::to_string(bytes) + " bytes");
  if (span.end < span.begin)
    return bad(std::string(name) + ".data", hex(data), "an address from which the tensor fits in memory");
  return {};
}

}  // namespace

bool given(const ConstTensor& view) {
  constexpr std::array<std::int64_t, 4> kNone{};
  return view.data != nullptr || view.shape != kNone;
}

std::array<std::int64_t, 3> lse_strides(const std::array<std::int64_t, 3>& stride,
                                        const std::array<std::int64_t, 4>& shape) {
  if (stride[0] != 0 || stride[1] != 0 || stride[2] != 0) return stride;
  std::int64_t rows = 0;
  if (__builtin_mul_overflow(shape[1], shape[2], &rows)) rows = std::numeric_limits<std::int64_t>::max();
  return {rows, shape[2], 1};
}
std::array<std::int64_t, 3> lse_strides(const AttentionArgs& args) {
  return lse_strides(args.lse.stride, args.q.shape);
}

Status validate_merge(std::span<const AttentionState> states, const Tensor& out, const LseView& lse) {
  if (states.empty()) return bad("states", "empty", "at least one state");
  if (Status s = check_view("out", out); !s.ok()) return s;
  if (out.shape[3] < 1 || out.shape[3] > kMaxHeadDim)
    return bad(element("out", "shape", 3), out.shape[3], "1..576");
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
  if (Status s = check_pointer("out", out.data, out_span, out.dtype); !s.ok()) return s;
  if (lse.data) {
    if (Status s = check_pointer("lse", lse.data, lse_span, DataType::f32); !s.ok()) return s;
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
      return bad(out_name + ".dtype", name_of(state.out.dtype), "that of states[0].out");
    const auto stride = lse_strides(state.lse_stride, out.shape);
    if (Status s = check_lse(lse_name.c_str(), stride, out.shape.data()); !s.ok()) return s;
    const Span data = span_of(state.out),
               sums = span_of(state.lse, out.shape.data(), stride.data(), 3, DataType::f32);
    if (Status s = check_pointer(out_name.c_str(), state.out.data, data, state.out.dtype); !s.ok()) return s;
    if (Status s = check_pointer(lse_name.c_str(), state.lse, sums, DataType::f32); !s.ok()) return s;
    // In place is fine where each element is read before it is written: the very same view.
    const bool same_out =
        state.out.data == out.data && state.out.stride == out.stride && state.out.dtype == out.dtype;
    const bool same_lse = state.lse == lse.data && stride == dense_lse;
    if (!same_out && overlap(out_span, data))
      return bad("out.data", hex(out.data),
                 "that of " + out_name + " with its strides and type, or memory apart from it");
    if (!same_lse && overlap(lse_span, sums))
      return bad("lse.data", hex(lse.data),
                 "that of " + lse_name + " with its strides, or memory apart from it");
    if (overlap(out_span, sums)) return bad("out.data", hex(out.data), "memory apart from " + lse_name);
    if (overlap(lse_span, data)) return bad("lse.data", hex(lse.data), "memory apart from " + out_name);
  }
  if (out.dtype != states[0].out.dtype && out.dtype != DataType::f32)
    return bad("out.dtype", name_of(out.dtype),
               std::string(name_of(states[0].out.dtype)) + ", as in the states, or f32");
  if (overlap(out_span, lse_span)) return bad("lse.data", hex(lse.data), "memory apart from out");
  return {};
}

Status validate_problem(const AttentionArgs& a) {
  if (Status s = check_view("q", a.q); !s.ok()) return s;
  if (Status s = check_view("k", a.k); !s.ok()) return s;
  if (Status s = check_view("v", a.v); !s.ok()) return s;
  if (Status s = check_view("out", a.out); !s.ok()) return s;
  if (Status s = check_types(a); !s.ok()) return s;
  if (Status s = check_shapes(a); !s.ok()) return s;
  std::int64_t count = 0;
  if (count_of(a.out.shape.data(), 4, &count) && count > 0) {
    if (Status s = check_apart("out", a.out.shape.data(), a.out.stride.data(), 4); !s.ok()) return s;
  }
  if (Status s = check_lse(a); !s.ok()) return s;
  if (Status s = check_terms(a); !s.ok()) return s;
  return check_options(a);
}

Status validate_pointers(const AttentionArgs& a) {
  const Span q = span_of(a.q), k = span_of(a.k), v = span_of(a.v), out = span_of(a.out);
  const bool idle = out.empty();  // nothing to compute: nothing is read
  if (idle) return {};
  if (Status s = check_pointer("q", a.q.data, q, a.q.dtype); !s.ok()) return s;
  if (Status s = check_pointer("k", a.k.data, k, a.k.dtype); !s.ok()) return s;
  if (Status s = check_pointer("v", a.v.data, v, a.v.dtype); !s.ok()) return s;
  if (Status s = check_pointer("out", a.out.data, out, a.out.dtype); !s.ok()) return s;
  const Span bias = given(a.bias) ? span_of(a.bias) : Span{}, mask = given(a.mask) ? span_of(a.mask) : Span{};
  if (given(a.bias)) {
    if (Status s = check_pointer("bias", a.bias.data, bias, a.bias.dtype); !s.ok()) return s;
  }
  if (given(a.mask)) {
    if (Status s = check_pointer("mask", a.mask.data, mask, a.mask.dtype); !s.ok()) return s;
  }
  const std::int64_t slopes_shape[2] = {a.q.shape[0], a.q.shape[1]},
                     slopes_stride[2] = {a.alibi_batch_stride, 1};
  const Span slopes =
      a.alibi_slopes ? span_of(a.alibi_slopes, slopes_shape, slopes_stride, 2, DataType::f32) : Span{};
  if (a.alibi_slopes) {
    if (Status s = check_pointer("alibi_slopes", a.alibi_slopes, slopes, DataType::f32); !s.ok()) return s;
  }
  const auto stride = lse_strides(a);
  const Span lse =
      a.lse.data ? span_of(a.lse.data, a.q.shape.data(), stride.data(), 3, DataType::f32) : Span{};
  if (a.lse.data) {
    if (Status s = check_pointer("lse", a.lse.data, lse, DataType::f32); !s.ok()) return s;
  }
  struct Named {
    const char* name;
    const Span& span;
  };
  for (const Named& input : {Named{"q", q}, Named{"k", k}, Named{"v", v}, Named{"bias", bias},
                             Named{"mask", mask}, Named{"alibi_slopes", slopes}}) {
    if (overlap(out, input.span))
      return bad("out.data", hex(a.out.data), std::string("memory apart from ") + input.name);
    if (overlap(lse, input.span))
      return bad("lse.data", hex(a.lse.data), std::string("memory apart from ") + input.name);
  }
  if (overlap(out, lse)) return bad("lse.data", hex(a.lse.data), "memory apart from out");
  return {};
}

Status validate_same_problem(const AttentionArgs& a, const AttentionArgs& planned, bool has_alibi,
                             bool has_seqused_k, const std::vector<std::int32_t>& seqused_k) {
  const auto same_view = [](const char* name, const auto& given, const auto& want) -> Status {
    if (given.dtype != want.dtype)
      return bad(std::string(name) + ".dtype", name_of(given.dtype),
                 std::string("the planned ") + name_of(want.dtype));
    for (int i = 0; i < 4; ++i) {
      if (given.shape[i] != want.shape[i])
        return bad(element(name, "shape", i), given.shape[i], "the planned " + std::to_string(want.shape[i]));
      if (given.stride[i] != want.stride[i])
        return bad(element(name, "stride", i), given.stride[i],
                   "the planned " + std::to_string(want.stride[i]));
    }
    return {};
  };
  if (Status s = same_view("q", a.q, planned.q); !s.ok()) return s;
  if (Status s = same_view("k", a.k, planned.k); !s.ok()) return s;
  if (Status s = same_view("v", a.v, planned.v); !s.ok()) return s;
  if (Status s = same_view("out", a.out, planned.out); !s.ok()) return s;
  if (Status s = same_view("bias", a.bias, planned.bias); !s.ok()) return s;
  if (Status s = same_view("mask", a.mask, planned.mask); !s.ok()) return s;
  if (a.lse.data) {
    if (Status s = check_lse(a); !s.ok()) return s;
  }
  if (a.softcap != planned.softcap)
    return bad("softcap", std::to_string(a.softcap), "the planned " + std::to_string(planned.softcap));
  if ((a.alibi_slopes != nullptr) != has_alibi) {
    return bad("alibi_slopes", a.alibi_slopes ? "given" : "null",
               has_alibi ? "given, as planned" : "null, as planned");
  }
  if (a.alibi_batch_stride != planned.alibi_batch_stride) {
    return bad("alibi_batch_stride", a.alibi_batch_stride,
               "the planned " + std::to_string(planned.alibi_batch_stride));
  }
  if (!(a.scale == planned.scale))
    return bad("scale", std::to_string(a.scale), "the planned " + std::to_string(planned.scale));
  if (a.is_causal != planned.is_causal)
    return bad("is_causal", a.is_causal, "the planned " + std::to_string(planned.is_causal));
  if (a.causal_alignment != planned.causal_alignment)
    return bad("causal_alignment", static_cast<int>(a.causal_alignment), "the planned one");
  if (a.window_left != planned.window_left)
    return bad("window_left", a.window_left, "the planned " + std::to_string(planned.window_left));
  if (a.window_right != planned.window_right)
    return bad("window_right", a.window_right, "the planned " + std::to_string(planned.window_right));
  if (a.pipeline != planned.pipeline) return bad("pipeline", static_cast<int>(a.pipeline), "the planned one");
  if ((a.seqused_k != nullptr) != has_seqused_k) {
    return bad("seqused_k", a.seqused_k ? "given" : "null",
               has_seqused_k ? "given, as planned" : "null, as planned");
  }
  for (std::size_t b = 0; b < seqused_k.size(); ++b) {
    if (a.seqused_k[b] != seqused_k[b]) {
      return bad("seqused_k[" + std::to_string(b) + "]", a.seqused_k[b],
                 "the planned " + std::to_string(seqused_k[b]));
    }
  }
  return {};
}

}  // namespace kumiko
