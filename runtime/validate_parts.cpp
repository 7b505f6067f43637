// SPDX-License-Identifier: Apache-2.0
#include "runtime/validate_parts.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <iterator>
#include <string_view>

#include "runtime/config.h"

namespace kumiko {
namespace {

constexpr const char* kDims[4] = {"batch", "heads", "seq", "head_dim"};
/// Tensors of scores, whose last dim is kv_len.
constexpr std::string_view kScores[] = {"scores", "bias", "mask", "dbias"};

constexpr std::int64_t bytes_of(DataType type) {
  switch (type) {
    case DataType::f32:
    case DataType::i32:
      return 4;
    case DataType::bf16:
    case DataType::f16:
      return 2;
    case DataType::boolean:
    case DataType::i8:
      return 1;
  }
  return 1;  // never reached: other values have been refused
}

/// Returns a dim along which two indices share an element, or -1. In order of stride, each dim must step over
/// all smaller ones.
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

}  // namespace

Status invalid(const std::string& what, const std::string& value, const std::string& expected) {
  return {Code::invalid_argument, what + " is " + value + "; expected " + expected};
}
Status invalid(const std::string& what, std::int64_t value, const std::string& expected) {
  return invalid(what, std::to_string(value), expected);
}

std::string element(const char* name, const char* field, int i) {
  const bool is_of_keys =
      i == 3 && std::find(std::begin(kScores), std::end(kScores), name) != std::end(kScores);
  return std::string(name) + "." + field + "[" + std::to_string(i) + "]" + " (" +
         (is_of_keys ? "kv_len" : kDims[i]) + ")";
}

std::string entry(const char* name, std::int64_t i) {
  return std::string(name) + "[" + std::to_string(i) + "]";
}

std::string name_of_page(bool is_list, std::int64_t b, std::int64_t i) {
  if (is_list) return "block_table[" + entry("kv_indptr", b) + " + " + std::to_string(i) + "]";
  return "block_table[" + std::to_string(b) + ", " + std::to_string(i) + "]";
}

std::string name_of(DataType type) {
  constexpr std::array<const char*, 6> kNames = {"f32", "bf16", "f16", "boolean", "i32", "i8"};
  const auto number = static_cast<std::size_t>(type);
  return number < kNames.size() ? kNames[number] : std::to_string(static_cast<int>(type));
}

std::string name_of(Pipeline pipeline) {
  const std::string number = std::to_string(static_cast<int>(pipeline));
  const char* const name = pipeline == Pipeline::automatic ? "automatic" : pipeline_name(pipeline);
  return name ? std::string(name) + " (" + number + ")" : number;
}

std::string name_of(LseBase base) {
  switch (base) {
    case LseBase::natural:
      return "natural (0)";
    case LseBase::two:
      return "two (1)";
  }
  return std::to_string(static_cast<int>(base));
}
std::string name_of(KeyLayout layout) {
  switch (layout) {
    case KeyLayout::rows:
      return "rows (0)";
    case KeyLayout::tiles_of_16:
      return "tiles_of_16 (1)";
  }
  return std::to_string(static_cast<int>(layout));
}
std::string name_of(Precision precision) {
  const std::string number = std::to_string(static_cast<int>(precision));
  const char* const name = precision == Precision::automatic ? "automatic" : precision_name(precision);
  return name ? std::string(name) + " (" + number + ")" : number;
}
std::string name_of(CausalAlignment alignment) {
  switch (alignment) {
    case CausalAlignment::bottom_right:
      return "bottom_right (0)";
    case CausalAlignment::top_left:
      return "top_left (1)";
  }
  return std::to_string(static_cast<int>(alignment));
}

bool extent_of(const std::int64_t* shape, const std::int64_t* stride, int dims, std::int64_t* extent) {
  std::int64_t last = 0;
  if (std::find(shape, shape + dims, 0) != shape + dims) return *extent = 0, true;
  for (int i = 0; i < dims; ++i) {
    std::int64_t step = 0;
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

Status check_equal(const char* name, int dim, std::int64_t value, const char* other, std::int64_t expected) {
  if (value == expected) return {};
  return invalid(element(name, "shape", dim), value, std::to_string(expected) + ", as in " + other);
}

bool empty(const std::array<std::int64_t, 4>& shape) {
  return shape[0] == 0 || shape[1] == 0 || shape[2] == 0 || shape[3] == 0;
}

Status check_float(const char* name, DataType type) {
  if (type <= DataType::f16) return {};
  return invalid(std::string(name) + ".dtype", name_of(type), "f32, bf16 or f16");
}

Status check_apart(const char* name, const std::int64_t* shape, const std::int64_t* stride, int dims) {
  const int i = overlapping_dim(shape, stride, dims);
  if (i < 0) return {};
  return invalid(element(name, "stride", i), stride[i], "a stride that keeps the output's elements apart");
}

Status check_lse(const char* name, const std::array<std::int64_t, 3>& stride, const std::int64_t* shape,
                 const char* field) {
  std::int64_t count = 0, extent = 0;
  if (!count_of(shape, 3, &count) || count == 0) return {};
  for (int i = 0; i < 3; ++i) {
    if (stride[i] < 0) return invalid(element(name, field, i), stride[i], "0 or more");
  }
  if (!extent_of(shape, stride.data(), 3, &extent)) {
    return invalid(std::string(name) + "." + field, "an extent beyond 2^63 bytes",
                   "a tensor that fits in the address space");
  }
  return {};
}

Status check_scale(float scale, const char* expected) {
  if (std::isfinite(scale)) return {};
  return invalid("scale", std::isnan(scale) ? "NaN" : scale > 0 ? "inf" : "-inf", expected);
}

Status check_key_layout_value(KeyLayout layout) {
  if (layout <= KeyLayout::tiles_of_16) return {};
  return invalid("key_layout", name_of(layout),
                 name_of(KeyLayout::rows) + " or " + name_of(KeyLayout::tiles_of_16));
}

Status check_key_layout(const char* name, const ConstTensor& view, KeyLayout layout) {
  if (layout == KeyLayout::rows) return {};
  const std::string why = ", as key_layout is " + name_of(layout);
  if (view.shape[2] % 16 != 0)
    return invalid(element(name, "shape", 2), view.shape[2], "a multiple of 16" + why);
  const ConstTensor whole = keys_in_memory(view, layout);
  if (Status s = check_extent(name, whole); !s.ok()) return s;
  if (empty(view.shape)) return {};
  const std::int64_t width = whole.shape[3], page = view.shape[2] * width;
  if (view.stride[2] != width)
    return invalid(
        element(name, "stride", 2), view.stride[2],
        std::to_string(width) + (width == view.shape[3] ? " (head_dim)" : " (head_dim + 1)") + why);
  for (int i = 0; i < 2; ++i) {
    if (view.shape[i] > 1 && view.stride[i] < page)
      return invalid(element(name, "stride", i), view.stride[i],
                     "at least " + std::to_string(page) + ", the elements of a page's head" + why);
  }
  return {};
}

Span span_of(const void* data, const std::int64_t* shape, const std::int64_t* stride, int dims,
             DataType type) {
  std::int64_t count = 0, extent = 0;
  if (!count_of(shape, dims, &count) || !extent_of(shape, stride, dims, &extent) || count == 0) return {};
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return {begin, begin + static_cast<std::uintptr_t>(extent * bytes_of(type)), count >= extent};
}
bool overlap(const Span& a, const Span& b) {
  if (a.empty() || b.empty() || a.end <= b.begin || b.end <= a.begin) return false;
  return (a.dense && b.dense) || a.begin == b.begin;
}

std::string hex(const void* p) {
  char text[32];
  std::snprintf(text, sizeof text, "%p", p);
  return text;
}

Status check_pointer(const char* name, const void* data, const Span& span, DataType type, const char* field) {
  if (span.empty()) return {};
  if (!data) return invalid(std::string(name) + field, "null", "a tensor");
  const std::int64_t bytes = bytes_of(type);
  if (reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) != 0)
    return invalid(std::string(name) + field, hex(data),
                   "an address aligned to " + std::to_string(bytes) + " bytes");
  if (span.end < span.begin)
    return invalid(std::string(name) + field, hex(data), "an address from which the tensor fits in memory");
  return {};
}

}  // namespace kumiko
