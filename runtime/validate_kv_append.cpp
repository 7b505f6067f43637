// SPDX-License-Identifier: Apache-2.0
// The checks of kv_append.
#include <bit>
#include <cmath>
#include <string>
#include <vector>

#include "runtime/kv_append.h"
#include "runtime/validate.h"
#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

bool is_present(const Tensor& view) {
  return kumiko::is_present(ConstTensor{view.data, view.shape, view.stride, view.dtype});
}

std::int64_t tokens_of(const KvAppendArgs& a) {
  return a.key.shape[0] * a.key.shape[2];
}

std::int64_t rope_stride_of(const KvAppendArgs& a) {
  return a.rope_stride > 0 ? a.rope_stride : a.rotary_dim / 2;
}

/// `other` has the sizes of `view` along `dims`.
template <class View, class Other>
Status check_sizes(const char* name, const View& view, const char* other_name, const Other& other,
                   std::initializer_list<int> dims) {
  for (const int i : dims) {
    if (Status s = check_equal(name, i, view.shape[i], other_name, other.shape[i]); !s.ok()) return s;
  }
  return {};
}

Status check_output(const char* name, const Tensor& view, KeyLayout layout = KeyLayout::rows) {
  if (Status s = check_view(name, view); !s.ok()) return s;
  const ConstTensor keys{view.data, view.shape, view.stride, view.dtype};
  if (Status s = check_key_layout(name, keys, layout); !s.ok()) return s;
  const Tensor whole = keys_in_memory(view, layout);
  return empty(view.shape) ? Status{} : check_apart(name, whole.shape.data(), whole.stride.data(), 4);
}

Status check_dim(const char* name, const ConstTensor& view) {
  if (view.shape[3] >= 1 && view.shape[3] <= kMaxHeadDim) return {};
  return invalid(element(name, "shape", 3), view.shape[3], "1..576");
}

Status check_tensors(const KvAppendArgs& a) {
  if (Status s = check_view("key", a.key); !s.ok()) return s;
  if (Status s = check_view("value", a.value); !s.ok()) return s;
  if (Status s = check_dim("key", a.key); !s.ok()) return s;
  if (Status s = check_dim("value", a.value); !s.ok()) return s;
  if (Status s = check_sizes("value", a.value, "key", a.key, {0, 1, 2}); !s.ok()) return s;
  if (tokens_of(a) > kMost32)
    return invalid("key.shape[0] * key.shape[2] (tokens)", tokens_of(a), "0..2147483647");
  if (Status s = check_key_layout_value(a.key_layout); !s.ok()) return s;
  if (Status s = check_output("key_cache", a.key_cache, a.key_layout); !s.ok()) return s;
  if (Status s = check_output("value_cache", a.value_cache); !s.ok()) return s;
  if (Status s = check_sizes("key_cache", a.key_cache, "key", a.key, {1, 3}); !s.ok()) return s;
  if (Status s = check_sizes("value_cache", a.value_cache, "value", a.value, {1, 3}); !s.ok()) return s;
  return check_sizes("value_cache", a.value_cache, "key_cache", a.key_cache, {0, 2});
}

Status check_query(const KvAppendArgs& a) {
  if (!kumiko::is_present(a.query)) {
    if (is_present(a.query_out)) return invalid("query_out", "given", "null, as query is null");
    if (a.query_norm) return invalid("query_norm", "given", "null, as query is null");
    return {};
  }
  if (Status s = check_view("query", a.query); !s.ok()) return s;
  if (Status s = check_sizes("query", a.query, "key", a.key, {0, 2, 3}); !s.ok()) return s;
  if (!is_present(a.query_out)) return invalid("query_out", "null", "a tensor, as query is given");
  if (Status s = check_output("query_out", a.query_out); !s.ok()) return s;
  return check_sizes("query_out", a.query_out, "query", a.query, {0, 1, 2, 3});
}

std::string text_of(double number) {
  return std::isnan(number) ? "NaN" : std::to_string(number);
}

/// The tables of cosines and sines, or what they are computed from.
Status check_angles(const KvAppendArgs& a) {
  if (!a.rope_cos != !a.rope_sin)
    return invalid(a.rope_cos ? "rope_sin" : "rope_cos", "null",
                   std::string("a table, as ") + (a.rope_cos ? "rope_cos" : "rope_sin") + " is given");
  if (!a.rope_cos) {
    if (a.rope_positions != 0)
      return invalid("rope_positions", a.rope_positions, "0, as rope_cos and rope_sin are null");
    if (a.rope_stride != 0)
      return invalid("rope_stride", a.rope_stride, "0, as rope_cos and rope_sin are null");
    if (!(a.rope_theta > 0.0 && std::isfinite(a.rope_theta)))
      return invalid("rope_theta", text_of(a.rope_theta), "a finite positive number");
    if (!(a.rope_scale > 0.0 && std::isfinite(a.rope_scale)))
      return invalid("rope_scale", text_of(a.rope_scale), "a finite positive number");
    return {};
  }
  if (a.rope_positions < 1 || a.rope_positions > kMost32)
    return invalid("rope_positions", a.rope_positions, "the rows of the tables, 1..2147483647");
  if (a.rope_stride != 0 && a.rope_stride < a.rotary_dim / 2)
    return invalid("rope_stride", a.rope_stride,
                   "0, or at least rotary_dim / 2, which is " + std::to_string(a.rotary_dim / 2));
  const std::int64_t shape[2] = {a.rope_positions, a.rotary_dim / 2}, stride[2] = {rope_stride_of(a), 1};
  std::int64_t extent = 0;
  if (!extent_of(shape, stride, 2, &extent))
    return invalid("rope_stride", a.rope_stride, "a table that fits in the address space");
  return {};
}

Status check_rotation(const KvAppendArgs& a) {
  if (a.rope_style != RopeStyle::neox && a.rope_style != RopeStyle::interleaved)
    return invalid("rope_style", static_cast<int>(a.rope_style), "neox (0) or interleaved (1)");
  if (a.rotary_dim < 0 || a.rotary_dim > a.key.shape[3] || a.rotary_dim % 2 != 0)
    return invalid("rotary_dim", a.rotary_dim,
                   "an even number in 0.." + std::to_string(a.key.shape[3]) + " (head_dim)");
  if (a.rotary_dim == 0) {
    const auto absent = [](const char* name) {  // Probably rotary_dim was forgotten.
      return invalid(name, "given", "null, as rotary_dim is 0");
    };
    if (a.positions) return absent("positions");
    if (a.rope_cos) return absent("rope_cos");
    if (a.rope_sin) return absent("rope_sin");
    return {};
  }
  if (Status s = check_angles(a); !s.ok()) return s;
  const std::int64_t tokens = tokens_of(a), last = a.rope_cos ? a.rope_positions - 1 : kMost32;
  if (tokens > 0 && !a.positions)
    return invalid("positions", "null",
                   "one for each token, as rotary_dim is " + std::to_string(a.rotary_dim));
  for (std::int64_t t = 0; t < tokens; ++t) {
    if (a.positions[t] < 0 || a.positions[t] > last)
      return invalid(entry("positions", t), a.positions[t],
                     "0.." + std::to_string(last) + (a.rope_cos ? " (rope_positions - 1)" : ""));
  }
  return {};
}

Status check_norm(const KvAppendArgs& a) {
  if (std::isfinite(a.norm_eps) && a.norm_eps >= 0.0f) return {};
  return invalid("norm_eps", text_of(static_cast<double>(a.norm_eps)), "a finite number, 0 or more");
}

/// A hash table with open addressing finds repeated slots. It has two to four entries for each token, so that
/// memory and time depend on the number of tokens, not of slots: 4 ns a token on a Zen 5.
Status check_slots(const KvAppendArgs& a, int domains) {
  const std::int64_t tokens = tokens_of(a), slots = a.key_cache.shape[0] * a.key_cache.shape[2];
  if (tokens == 0) return {};
  if (!a.slot_mapping) return invalid("slot_mapping", "null", "a slot for each token");
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(tokens))) + 1;
  const std::uint64_t size = std::uint64_t{1} << bits;
  std::vector<std::int32_t> seen(size, -1);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int64_t slot = a.slot_mapping[t];
    if (slot == -1) continue;
    if (slot < 0 || slot >= slots)
      return invalid(entry("slot_mapping", t), slot,
                     slots > 0 ? "-1 or 0.." + std::to_string(slots - 1) + " (pages * page_size - 1)"
                               : "-1, as key_cache has no slots");
    const std::int64_t page = slot / a.key_cache.shape[2];
    if (a.page_domains && (a.page_domains[page] < -1 || a.page_domains[page] >= domains))
      return invalid(entry("page_domains", page), a.page_domains[page],
                     "-1 or a domain below " + std::to_string(domains));
    // Fibonacci hashing (Knuth, TAOCP 3, section 6.4).
    std::uint64_t at = static_cast<std::uint64_t>(slot) * 0x9e3779b97f4a7c15u >> (64 - bits);
    for (; seen[at] >= 0; at = (at + 1) & (size - 1)) {
      if (a.slot_mapping[seen[at]] == slot)
        return invalid(entry("slot_mapping", t), slot,
                       "a slot of its own; " + entry("slot_mapping", seen[at]) + " is the same");
    }
    seen[at] = static_cast<std::int32_t>(t);
  }
  return {};
}

template <class T>
Span span_of(const T* data, std::int64_t count) {
  const auto begin = reinterpret_cast<std::uintptr_t>(data);
  return data ? Span{begin, begin + static_cast<std::uintptr_t>(count) * sizeof(T)} : Span{};
}

Status check_memory(const KvAppendArgs& a) {
  struct Named {
    const char* name;
    Span span;
    const void* data;
    DataType dtype;
  };
  const auto of = [](const char* name, const auto& view) {
    return Named{name, kumiko::span_of(view), view.data, view.dtype};
  };
  const Named outputs[] = {of("key_cache", keys_in_memory(a.key_cache, a.key_layout)),
                           of("value_cache", a.value_cache), of("query_out", a.query_out)};
  const Named inputs[] = {of("key", a.key), of("value", a.value), of("query", a.query)};
  for (const auto& tensors : {outputs, inputs}) {
    for (int i = 0; i < 3; ++i) {
      const Named& t = tensors[i];
      if (Status s = check_data(t.name, t.data, t.span, t.dtype); !s.ok()) return s;
    }
  }
  const std::int64_t tokens = tokens_of(a), dim = a.key.shape[3];
  const std::int64_t table[2] = {a.rope_positions, a.rotary_dim / 2},
                     table_stride[2] = {rope_stride_of(a), 1};
  const auto table_of = [&](const float* data) {
    return kumiko::span_of(data, table, table_stride, 2, DataType::f32);
  };
  const std::pair<const char*, Span> arrays[] = {
      {"slot_mapping", span_of(a.slot_mapping, tokens)},
      {"positions", span_of(a.positions, tokens)},
      {"page_domains", span_of(a.page_domains, a.key_cache.shape[0])},
      {"key_norm", span_of(a.key_norm, dim)},
      {"query_norm", span_of(a.query_norm, dim)},
      {"rope_cos", table_of(a.rope_cos)},
      {"rope_sin", table_of(a.rope_sin)}};
  // In place is safe only for the same view: each pair is then read before it is written.
  const bool in_place = a.query.data == a.query_out.data && a.query.stride == a.query_out.stride &&
                        a.query.dtype == a.query_out.dtype;
  const auto apart = [](const Named& output, const char* name, const Span& span) {
    if (!overlap(output.span, span)) return Status{};
    return invalid(std::string(output.name) + ".data", hex(output.data),
                   std::string("memory apart from ") + name);
  };
  for (int n = 0; n < 3; ++n) {
    const Named& output = outputs[n];
    for (int other = 0; other < n; ++other) {
      if (Status s = apart(output, outputs[other].name, outputs[other].span); !s.ok()) return s;
    }
    for (int i = 0; i < 3; ++i) {
      if (n == 2 && i == 2 && in_place) continue;
      if (Status s = apart(output, inputs[i].name, inputs[i].span); !s.ok()) return s;
    }
    for (const auto& [name, span] : arrays) {
      if (Status s = apart(output, name, span); !s.ok()) return s;
    }
  }
  return {};
}

}  // namespace

Status validate_kv_append(const KvAppendArgs& a, int domains) {
  if (Status s = check_tensors(a); !s.ok()) return s;
  if (Status s = check_query(a); !s.ok()) return s;
  if (Status s = check_norm(a); !s.ok()) return s;
  if (Status s = check_rotation(a); !s.ok()) return s;
  if (Status s = check_slots(a, domains); !s.ok()) return s;
  return check_memory(a);
}

}  // namespace kumiko
