// SPDX-License-Identifier: Apache-2.0
#include "runtime/validate.h"

#include <cmath>
#include <limits>
#include <string>
#include <type_traits>

#include "runtime/attention_fields.h"
#include "runtime/config.h"
#include "runtime/problem.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

/// Checks a bias or mask: [batch, q_heads, q_len, kv_len], the sizes of q and the keys that the longest
/// sequence can have, in any strides.
Status check_score_view(const char* name, const ConstTensor& view, const AttentionArgs& a) {
  if (!is_present(view)) return {};
  if (Status s = check_extent(name, view); !s.ok()) return s;
  for (int i = 0; i < 3; ++i) {
    if (Status s = check_equal(name, i, view.shape[i], "q.shape", a.q.shape[i]); !s.ok()) return s;
  }
  const char* keys = a.block_table    ? "max_pages * k.shape[2] (kv_len)"
                     : a.cu_seqlens_k ? "the largest difference in cu_seqlens_k (kv_len)"
                                      : "k.shape[2] (kv_len)";
  return check_equal(name, 3, view.shape[3], keys, longest_capacity(a));
}

Status check_types(const AttentionArgs& a) {
  const bool is_int8 = a.q.dtype == DataType::i8;
  if (a.k.dtype != a.q.dtype) return invalid("k.dtype", name_of(a.k.dtype), name_of(a.q.dtype) + ", as in q");
  if (!is_int8 && a.v.dtype != a.q.dtype)
    return invalid("v.dtype", name_of(a.v.dtype), name_of(a.q.dtype) + ", as in q");
  if (a.out.dtype != a.v.dtype && a.out.dtype != DataType::f32) {
    return invalid("out.dtype", name_of(a.out.dtype),
                   name_of(a.v.dtype) + (is_int8 ? ", as in v, or f32" : ", as in q, or f32"));
  }
  if (is_int8 && a.key_layout == KeyLayout::tiles_of_16) {
    return {Code::unsupported,
            "key_layout is tiles_of_16 (1); expected rows (0), as k is i8, for which there are no tiles"};
  }
  return {};
}

/// The strides of the scales of q or k.
Status check_scale_of(const char* name, const ScaleView& view, const ConstTensor& rows) {
  if (!view.data) return {};
  if (rows.dtype != DataType::i8)
    return invalid(std::string(name) + ".data", "given", "null, as q and k are not i8");
  for (int i = 0; i < 3; ++i) {
    const std::int64_t stride = view.stride[static_cast<std::size_t>(i)];
    if (stride < 0) return invalid(element(name, "stride", i), stride, "0 or more");
  }
  std::int64_t extent = 0;
  if (extent_of(rows.shape.data(), view.stride.data(), 3, &extent)) return {};
  return invalid(std::string(name) + ".stride", "an extent beyond 2^63 bytes",
                 "scales that fit in the address space");
}

Status check_scales(const AttentionArgs& a) {
  if (Status s = check_scale_of("q_scale", a.q_scale, a.q); !s.ok()) return s;
  return check_scale_of("k_scale", a.k_scale, a.k);
}

Status check_key_layout_of(const AttentionArgs& a) {
  if (Status s = check_key_layout_value(a.key_layout); !s.ok()) return s;
  if (a.key_layout != KeyLayout::rows && !a.block_table)
    return invalid("key_layout", name_of(a.key_layout),
                   name_of(KeyLayout::rows) + ", as block_table is null");
  return check_key_layout("k", a.k, a.key_layout);
}

Status check_head_dims(const AttentionArgs& a) {
  for (auto [name, dim] : {std::pair{"q", a.q.shape[3]}, std::pair{"v", a.v.shape[3]}}) {
    if (dim < 1 || dim > kMaxHeadDim) return invalid(element(name, "shape", 3), dim, "1..576");
  }
  return {};
}

/// Sizes that tensors have in common.
Status check_same_sizes(const AttentionArgs& a) {
  if (Status s = check_equal("k", 3, a.k.shape[3], "q.shape[3]", a.q.shape[3]); !s.ok()) return s;
  if (Status s = check_equal("v", 0, a.v.shape[0], "k.shape[0]", a.k.shape[0]); !s.ok()) return s;
  if (Status s = check_equal("v", 1, a.v.shape[1], "k.shape[1]", a.k.shape[1]); !s.ok()) return s;
  if (Status s = check_equal("v", 2, a.v.shape[2], "k.shape[2]", a.k.shape[2]); !s.ok()) return s;
  for (int i = 0; i < 3; ++i) {
    if (Status s = check_equal("out", i, a.out.shape[i], "q.shape", a.q.shape[i]); !s.ok()) return s;
  }
  if (Status s = check_equal("out", 3, a.out.shape[3], "v.shape[3]", a.v.shape[3]); !s.ok()) return s;
  const std::int64_t q_heads = a.q.shape[1], kv_heads = a.k.shape[1];
  if (q_heads > 0 && (kv_heads == 0 || q_heads % kv_heads != 0)) {
    return invalid(element("k", "shape", 1), kv_heads,
                   "a divisor of q.shape[1] (q_heads), which is " + std::to_string(q_heads));
  }
  return {};
}

Status check_shapes(const AttentionArgs& a) {
  if (Status s = check_head_dims(a); !s.ok()) return s;
  if (Status s = check_sequences(a); !s.ok()) return s;
  if (Status s = check_key_layout_of(a); !s.ok()) return s;
  return check_same_sizes(a);
}

/// The strides of lse or row_max.
Status check_lse_of(const char* name, const LseView& view, const AttentionArgs& a) {
  const auto stride = lse_strides(view.stride, a.q.shape);
  if (Status s = check_lse(name, stride, a.q.shape.data()); !s.ok()) return s;
  std::int64_t count = 0;
  if (!count_of(a.q.shape.data(), 3, &count) || count == 0) return {};
  return check_apart(name, a.q.shape.data(), stride.data(), 3);
}

/// Each tensor as such, and their types together.
Status check_views(const AttentionArgs& a) {
  if (Status s = check_view_or_int8("q", a.q); !s.ok()) return s;
  if (Status s = check_view_or_int8("k", a.k); !s.ok()) return s;
  if (Status s = check_view("v", a.v); !s.ok()) return s;
  if (Status s = check_view("out", a.out); !s.ok()) return s;
  return check_types(a);
}

/// No output overlaps itself.
Status check_outputs(const AttentionArgs& a) {
  std::int64_t count = 0;
  if (count_of(a.out.shape.data(), 4, &count) && count > 0) {
    if (Status s = check_apart("out", a.out.shape.data(), a.out.stride.data(), 4); !s.ok()) return s;
  }
  if (Status s = check_lse_of("lse", a.lse, a); !s.ok()) return s;
  return check_lse_of("row_max", a.row_max, a);
}

Status check_score_views(const AttentionArgs& a) {
  if (Status s = is_present(a.bias) ? check_float("bias", a.bias.dtype) : Status(); !s.ok()) return s;
  if (is_present(a.mask) && a.mask.dtype != DataType::boolean)
    return invalid("mask.dtype", name_of(a.mask.dtype), "boolean");
  if (Status s = check_score_view("bias", a.bias, a); !s.ok()) return s;
  return check_score_view("mask", a.mask, a);
}

Status check_slopes(const AttentionArgs& a) {
  if (a.alibi_batch_stride != 0 && a.alibi_batch_stride < a.q.shape[1]) {
    return invalid("alibi_batch_stride", a.alibi_batch_stride,
                   "0, or at least q.shape[1] (q_heads), which is " + std::to_string(a.q.shape[1]));
  }
  const std::int64_t shape[2] = {number_of_sequences(a), a.q.shape[1]}, stride[2] = {a.alibi_batch_stride, 1};
  std::int64_t extent = 0;
  if (!extent_of(shape, stride, 2, &extent)) {
    return invalid("alibi_batch_stride", a.alibi_batch_stride, "slopes that fit in the address space");
  }
  return {};
}

Status check_terms(const AttentionArgs& a) {
  if (!std::isfinite(a.softcap) || a.softcap < 0.0f)
    return invalid("softcap", std::to_string(a.softcap), "a finite cap above 0, or 0 for none");
  if (Status s = check_score_views(a); !s.ok()) return s;
  return check_slopes(a);
}

Status check_options(const AttentionArgs& a) {
  if (Status s = check_scale(a.scale, "a finite factor, or 0 for 1 / sqrt(head_dim)"); !s.ok()) return s;
  if (Status s = check_visibility(a, number_of_sequences(a), longest_capacity(a)); !s.ok()) return s;
  if (Status s = check_sequence_visibility(a); !s.ok()) return s;
  if (Status s = check_key_lists(a); !s.ok()) return s;
  if (a.lse_base > LseBase::two) return invalid("lse_base", name_of(a.lse_base), "natural (0) or two (1)");
  if (Status s = check_precision(a.precision); !s.ok()) return s;
  return check_pipeline(a.pipeline);
}

// Compares a field of a run with the planned one.
template <class Pointer>
Status check_same(const char* name, const View<Pointer>& given, const View<Pointer>& planned) {
  if (given.dtype != planned.dtype)
    return invalid(std::string(name) + ".dtype", name_of(given.dtype),
                   "the planned " + name_of(planned.dtype));
  for (int i = 0; i < 4; ++i) {
    if (given.shape[i] != planned.shape[i])
      return invalid(element(name, "shape", i), given.shape[i],
                     "the planned " + std::to_string(planned.shape[i]));
    if (given.stride[i] != planned.stride[i])
      return invalid(element(name, "stride", i), given.stride[i],
                     "the planned " + std::to_string(planned.stride[i]));
  }
  return {};
}
template <Scalar Value>
Status check_same(const char* name, Value given, Value planned) {
  if (given == planned) return {};
  if constexpr (std::is_enum_v<Value>)
    return invalid(name, name_of(given), "the planned " + name_of(planned));
  else
    return invalid(name, std::to_string(given), "the planned " + std::to_string(planned));
}

template <class Number>
Status check_copied(const char* name, const Number* given, bool is_planned,
                    const std::vector<Number>& planned) {
  if (Status s = check_same_presence(name, given, is_planned); !s.ok()) return s;
  for (std::size_t b = 0; b < planned.size(); ++b) {
    if (given[b] != planned[b])
      return invalid(std::string(name) + "[" + std::to_string(b) + "]", given[b],
                     "the planned " + std::to_string(planned[b]));
  }
  return {};
}

Span list_span(const std::int32_t* list, std::int64_t size) {
  const std::int64_t stride = 1;
  return span_of(list, &size, &stride, 1, DataType::i32);
}

/// With kv_indptr: the whole list, though the pages of the first sequence may begin later in it.
Span table_span(const AttentionArgs& a, std::int64_t sequences, const PageTable& table) {
  if (!table.block_table) return {};
  if (table.kv_indptr) {
    const std::int32_t end = table.kv_indptr[sequences];
    return end > table.kv_indptr[0] ? list_span(table.block_table, end) : Span{};
  }
  const std::int64_t shape[2] = {sequences, a.max_pages},
                     stride[2] = {a.block_table_stride > 0 ? a.block_table_stride : a.max_pages, 1};
  return span_of(table.block_table, shape, stride, 2, DataType::i32);
}

Status check_tensor_pointers(const TensorsInMemory& tensors) {
  for (const TensorMemory& tensor : tensors) {
    if (Status s = check_pointer(tensor.name, tensor.data, tensor.span, tensor.type, tensor.field); !s.ok())
      return s;
  }
  return {};
}

/// Checks that no output overlaps one of `others`; if these are `tensors` themselves, one before it.
Status check_outputs_apart(const TensorsInMemory& tensors, std::span<const TensorMemory> others) {
  for (const TensorMemory& output : tensors) {
    if (!output.is_output) continue;
    for (const TensorMemory& other : others) {
      if (&other == &output) break;
      if (overlap(output.span, other.span))
        return invalid(std::string(output.name) + output.field, hex(output.data),
                       std::string("memory apart from ") + other.name);
    }
  }
  return {};
}

}  // namespace

Status check_precision(Precision precision) {
  if (precision <= Precision::int8) return {};
  return invalid("precision", name_of(precision), "automatic (0), standard (1), half (2) or int8 (3)");
}

Status check_pipeline(Pipeline pipeline) {
  if (pipeline == Pipeline::automatic || pipeline_name(pipeline)) return {};
  std::string names = name_of(Pipeline::automatic);
  for (const Pipeline p : kPipelines) names += ", " + name_of(p);
  return invalid("pipeline", static_cast<int>(pipeline), names);
}

bool is_present(const ConstTensor& view) {
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

Status validate_problem(const AttentionArgs& a) {
  if (Status s = check_views(a); !s.ok()) return s;
  if (Status s = check_shapes(a); !s.ok()) return s;
  if (Status s = check_outputs(a); !s.ok()) return s;
  if (Status s = check_scales(a); !s.ok()) return s;
  if (Status s = check_terms(a); !s.ok()) return s;
  return check_options(a);
}

Status check_page_table(const AttentionArgs& a, std::int64_t sequences, const PageTable& table) {
  if (!table.block_table) return {};
  if (table.kv_indptr) {
    const Span span = list_span(table.kv_indptr, sequences + 1);
    if (Status s = check_pointer("kv_indptr", table.kv_indptr, span, DataType::i32); !s.ok()) return s;
    if (Status s = check_kv_indptr(sequences, a.max_pages, table.kv_indptr); !s.ok()) return s;
  }
  return check_pointer("block_table", table.block_table, table_span(a, sequences, table), DataType::i32);
}

TensorsInMemory tensors_of(const AttentionArgs& a) {
  const auto tensor = [](const char* name, const auto& view, bool is_output = false) -> TensorMemory {
    return {name, view.data, span_of(view), view.dtype, ".data", is_output};
  };
  const auto floats = [](const char* name, const float* data, const std::int64_t* shape,
                         const std::int64_t* stride, int dims) -> TensorMemory {
    return {name, data, data ? span_of(data, shape, stride, dims, DataType::f32) : Span{}, DataType::f32};
  };
  const auto view = [&](const char* name, const auto& of, const ConstTensor& rows,
                        const std::array<std::int64_t, 3>& stride, bool is_output = false) {
    TensorMemory made = floats(name, of.data, rows.shape.data(), stride.data(), 3);
    made.field = ".data", made.is_output = is_output;
    return made;
  };
  const auto lse = [&](const char* name, const LseView& of) {
    return view(name, of, a.q, lse_strides(of.stride, a.q.shape), true);
  };
  const std::int64_t slopes[2] = {number_of_sequences(a), a.q.shape[1]},
                     slopes_stride[2] = {a.alibi_batch_stride, 1};
  return {{tensor("q", a.q), tensor("k", keys_in_memory(a.k, a.key_layout)), tensor("v", a.v),
           tensor("bias", a.bias), tensor("mask", a.mask),
           floats("alibi_slopes", a.alibi_slopes, slopes, slopes_stride, 2),
           floats("sinks", a.sinks, &slopes[1], &slopes_stride[1], 1),
           view("q_scale", a.q_scale, a.q, a.q_scale.stride),
           view("k_scale", a.k_scale, a.k, a.k_scale.stride), tensor("out", a.out, true), lse("lse", a.lse),
           lse("row_max", a.row_max)}};
}

Status validate_pointers(const AttentionArgs& a) {
  if (span_of(a.out).empty()) return {};  // nothing to compute, so nothing is read
  const TensorsInMemory tensors = tensors_of(a);
  if (Status s = check_tensor_pointers(tensors); !s.ok()) return s;
  const std::int64_t sequences = number_of_sequences(a);
  const PageTable pages{a.block_table, a.kv_indptr};
  if (Status s = check_page_table(a, sequences, pages); !s.ok()) return s;
  KeyListSpans lists;
  if (Status s = check_key_list_pointers(a, &lists); !s.ok()) return s;
  const Span indptr = a.kv_indptr ? list_span(a.kv_indptr, sequences + 1) : Span{};
  const TensorMemory tables[] = {{"block_table", a.block_table, table_span(a, sequences, pages)},
                                 {"kv_indptr", a.kv_indptr, indptr},
                                 {"tree_mask", a.tree_mask, lists.tree_mask},
                                 {"bsr_indptr", a.bsr_indptr, lists.bsr_indptr},
                                 {"bsr_indices", a.bsr_indices, lists.bsr_indices}};
  if (Status s = check_outputs_apart(tensors, tensors); !s.ok()) return s;
  return check_outputs_apart(tensors, tables);
}

Status validate_tensors(const AttentionArgs& a) {
  if (Status s = check_views(a); !s.ok()) return s;
  if (Status s = check_head_dims(a); !s.ok()) return s;
  if (Status s = check_same_sizes(a); !s.ok()) return s;
  if (Status s = check_outputs(a); !s.ok()) return s;
  if (Status s = check_scales(a); !s.ok()) return s;
  if (Status s = check_slopes(a); !s.ok()) return s;
  for (const auto& [name, view] : {std::pair{"bias", &a.bias}, std::pair{"mask", &a.mask}}) {
    if (Status s = check_extent(name, *view); !s.ok()) return s;
  }
  const TensorsInMemory tensors = tensors_of(a);
  if (Status s = check_tensor_pointers(tensors); !s.ok()) return s;
  return check_outputs_apart(tensors, tensors);
}

Status check_same_view(const char* name, const ConstTensor& given, const ConstTensor& planned) {
  return check_same(name, given, planned);
}

Status check_same_presence(const char* name, const void* given, bool is_planned) {
  if ((given != nullptr) == is_planned) return {};
  return invalid(name, given ? "given" : "null", is_planned ? "given, as planned" : "null, as planned");
}

Status validate_same_problem(const AttentionArgs& a, const AttentionArgs& planned, const Problem& problem) {
  // First, because the lists that are compared with the plan's have as many entries as it says.
  if (Status s = check_same("num_sequences", a.num_sequences, planned.num_sequences); !s.ok()) return s;
#define KUMIKO_CHECK_fixed(name) check_same(#name, a.name, planned.name)
#define KUMIKO_CHECK_presence(name) check_same_presence(#name, a.name, problem.has_##name)
#define KUMIKO_CHECK_copied(name) check_copied(#name, a.name, problem.has_##name, problem.name)
#define KUMIKO_CHECK_free(name) Status()
#define KUMIKO_ATTENTION_FIELD(name, plan) \
  if (Status s = KUMIKO_CHECK_##plan(name); !s.ok()) return s;
#include "runtime/attention_fields.inc"
#undef KUMIKO_ATTENTION_FIELD
#undef KUMIKO_CHECK_free
#undef KUMIKO_CHECK_copied
#undef KUMIKO_CHECK_presence
#undef KUMIKO_CHECK_fixed
  // Plans keep no pointers, so a bias or mask with a pointer but no shape still equals an absent one that was
  // planned. It would be read, so refuse it.
  if (Status s = check_score_views(a); !s.ok()) return s;
  if (Status s = a.lse.data ? check_lse_of("lse", a.lse, a) : Status(); !s.ok()) return s;
  if (Status s = a.row_max.data ? check_lse_of("row_max", a.row_max, a) : Status(); !s.ok()) return s;
  return check_scales(a);
}

}  // namespace kumiko
