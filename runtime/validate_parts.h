// SPDX-License-Identifier: Apache-2.0
// Shared by the checks of every public call: tensors, extents, spans of memory, and their messages.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <string>

#include "runtime/attention.h"

namespace kumiko {

Status invalid(const std::string& what, const std::string& value, const std::string& expected);
Status invalid(const std::string& what, std::int64_t value, const std::string& expected);
/// "q.shape[1] (heads)"
std::string element(const char* name, const char* field, int i);
/// "name[i]".
std::string entry(const char* name, std::int64_t i);
/// Page i of sequence b: "block_table[b, i]", or "block_table[kv_indptr[b] + i]" of a list.
std::string name_of_page(bool is_list, std::int64_t b, std::int64_t i);

/// Tasks are numbered in 32 bits, and so are sequences and KV heads together, and the keys of a sequence.
inline constexpr std::int64_t kMost32 = std::numeric_limits<std::int32_t>::max();
std::string hex(const void* p);
/// The type's number if it has no name.
std::string name_of(DataType type);
/// "online (1)", for fields whose numbers callers of the C ABI use.
std::string name_of(Pipeline pipeline);
std::string name_of(CausalAlignment alignment);
std::string name_of(LseBase base);
std::string name_of(KeyLayout layout);
std::string name_of(Precision precision);

/// Distance in elements from the first to one past the last element; false if it exceeds 2^63 - 1 bytes, at 4
/// bytes per element.
bool extent_of(const std::int64_t* shape, const std::int64_t* stride, int dims, std::int64_t* extent);
bool count_of(const std::int64_t* shape, int dims, std::int64_t* count);

Status check_equal(const char* name, int dim, std::int64_t value, const char* other, std::int64_t expected);
/// No two elements of an output share memory.
Status check_apart(const char* name, const std::int64_t* shape, const std::int64_t* stride, int dims);
/// `field`: the field of `name` that has the strides.
Status check_lse(const char* name, const std::array<std::int64_t, 3>& stride, const std::int64_t* shape,
                 const char* field = "stride");
Status check_scale(float scale, const char* expected);

bool empty(const std::array<std::int64_t, 4>& shape);

/// Refuses a type that is not a floating-point one.
Status check_float(const char* name, DataType type);

template <class View>
Status check_extent(const char* name, const View& view) {
  for (int i = 0; i < 4; ++i) {
    if (view.shape[i] < 0 || view.shape[i] > std::numeric_limits<std::int32_t>::max())
      return invalid(element(name, "shape", i), view.shape[i], "0..2147483647");
  }
  std::int64_t count = 0, extent = 0;
  if (!count_of(view.shape.data(), 4, &count)) {
    return invalid(std::string(name) + ".shape", "a product beyond 2^63 bytes",
                   "a tensor that fits in the address space");
  }
  if (count == 0) return {};
  for (int i = 0; i < 4; ++i) {
    if (view.stride[i] < 0) return invalid(element(name, "stride", i), view.stride[i], "0 or more");
  }
  if (!extent_of(view.shape.data(), view.stride.data(), 4, &extent)) {
    return invalid(std::string(name) + ".stride", "an extent beyond 2^63 bytes",
                   "a tensor that fits in the address space");
  }
  return {};
}

/// Checks shape and strides; the last stride must be 1.
template <class View>
Status check_rows(const char* name, const View& view) {
  if (Status s = check_extent(name, view); !s.ok()) return s;
  if (view.stride[3] != 1 && view.shape[3] > 1 && !empty(view.shape))
    return invalid(element(name, "stride", 3), view.stride[3], "1");
  return {};
}
template <class View>
Status check_view(const char* name, const View& view) {
  if (Status s = check_float(name, view.dtype); !s.ok()) return s;
  return check_rows(name, view);
}

/// The same for queries and keys of attention.
template <class View>
Status check_view_or_int8(const char* name, const View& view) {
  if (view.dtype > DataType::f16 && view.dtype != DataType::i8)
    return invalid(std::string(name) + ".dtype", name_of(view.dtype), "f32, bf16, f16 or i8");
  return check_rows(name, view);
}

/// Keys as they lie in memory: in tiles an odd number of 16-bit dims is rounded up to an even one.
template <class View>
View keys_in_memory(View view, KeyLayout layout) {
  if (layout == KeyLayout::tiles_of_16 && view.dtype != DataType::f32) view.shape[3] += view.shape[3] % 2;
  return view;
}
Status check_key_layout_value(KeyLayout layout);
/// Sizes and strides of keys that check_view() has seen.
Status check_key_layout(const char* name, const ConstTensor& view, KeyLayout layout);

/// Checks the number of used keys of sequence b.
inline Status check_length(std::int64_t b, std::int32_t length, std::int64_t kv_len) {
  if (length >= 0 && length <= kv_len) return {};
  return invalid("seqused_k[" + std::to_string(b) + "]", length,
                 "0.." + std::to_string(kv_len) + " (kv_len)");
}

/// Checks windows, alignment and used lengths of any struct of arguments that has them.
template <class Args>
Status check_visibility(const Args& a, std::int64_t batch, std::int64_t kv_len) {
  if (a.window_left < -1) return invalid("window_left", a.window_left, "-1 (unlimited) or more");
  if (a.window_right < -1) return invalid("window_right", a.window_right, "-1 (unlimited) or more");
  if (a.causal_alignment != CausalAlignment::bottom_right &&
      a.causal_alignment != CausalAlignment::top_left) {
    return invalid("causal_alignment", static_cast<int>(a.causal_alignment),
                   "bottom_right (0) or top_left (1)");
  }
  for (std::int64_t b = 0; a.seqused_k && b < batch; ++b) {
    if (Status s = check_length(b, a.seqused_k[b], kv_len); !s.ok()) return s;
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
             DataType type);
template <class View>
Span span_of(const View& view) {
  return span_of(view.data, view.shape.data(), view.stride.data(), 4, view.dtype);
}

/// Dense spans overlap if they intersect. A strided view may lie in the gaps of another (a fused QKV buffer),
/// so for these only equal starts count as overlap.
bool overlap(const Span& a, const Span& b);
/// `name` is that of the pointer, or with `field` ".data" that of the view whose data it is.
Status check_pointer(const char* name, const void* data, const Span& span, DataType type,
                     const char* field = "");
inline Status check_data(const char* name, const void* data, const Span& span, DataType type) {
  return check_pointer(name, data, span, type, ".data");
}

/// A tensor of a call in memory; no span where it is not given.
struct TensorMemory {
  const char* name;
  const void* data;
  Span span;
  DataType type = DataType::i32;
  const char* field = "";  ///< ".data" of a view
  bool is_output = false;
};
/// Inputs, then outputs.
using TensorsInMemory = std::array<TensorMemory, 12>;
TensorsInMemory tensors_of(const AttentionArgs& args);

/// Checks the addresses of a tree mask and of lists of key blocks, and what the lists hold. Part of
/// validate_pointers().
struct KeyListSpans {
  Span tree_mask, bsr_indptr, bsr_indices;
};
Status check_key_list_pointers(const AttentionArgs& args, KeyListSpans* spans);

}  // namespace kumiko
