// SPDX-License-Identifier: Apache-2.0
#include "append.h"

#include <cstring>
#include <span>

#include "attention.h"
#include "context.h"

namespace kumiko::python {
namespace {

/// [tokens, heads, dim], whatever the layout, or four dimensions in that of the caches.
template <class Pointer>
View<Pointer> rows_of(const Imported& tensor, Layout layout) {
  if (tensor.ndim == 3) {
    return {tensor.data,
            {1, tensor.shape[1], tensor.shape[0], tensor.shape[2]},
            {0, tensor.stride[1], tensor.stride[0], tensor.stride[2]},
            dtype_of(tensor)};
  }
  if (tensor.ndim != 4)
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                "three dimensions: tokens, heads, dim; or four");
  if constexpr (std::is_same_v<Pointer, void*>)
    return output_of(tensor, layout);
  else
    return input_of(tensor, layout);
}

const float* weights_of(const Imported& tensor, std::int64_t head_dim) {
  expect_float32(tensor);
  if (tensor.ndim != 1 || tensor.shape[0] != head_dim || (tensor.stride[0] != 1 && head_dim > 1))
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                "(" + std::to_string(head_dim) + ",), contiguous");
  return reinterpret_cast<const float*>(tensor.data);
}

/// The columns of a table with a row for each position.
std::int64_t width_of(const Imported& tensor) {
  expect_float32(tensor);
  if (tensor.ndim != 2)
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                "two dimensions: positions and numbers");
  return tensor.shape[1];
}

void expect_table(const Imported& tensor, std::int64_t width) {
  const std::string name = tensor.name;
  if (width_of(tensor) != width || (tensor.stride[1] != 1 && width > 1))
    wrong_value(name + ".shape", tensor.shape_text(),
                "(positions, " + std::to_string(width) + "), its rows contiguous");
  // To the library a stride of 0 means rows without a gap.
  if (tensor.shape[0] > 1 && tensor.stride[0] < width)
    wrong_value(name + ".stride[0]", std::to_string(tensor.stride[0]),
                "at least " + std::to_string(width) + ", the length of a row");
}

void expect_count(const char* name, std::int64_t count, std::int64_t tokens) {
  if (count != tokens)
    wrong_value(name, std::to_string(count) + " integers", std::to_string(tokens) + ", one for each token");
}
}  // namespace

TokenNumbers::TokenNumbers(const char* name, nb::handle value, std::int64_t tokens) {
  if (PyList_Check(value.ptr()) || PyTuple_Check(value.ptr())) {
    for (const nb::handle item : nb::borrow<nb::object>(value)) copy_.push_back(integer_of(name, item));
    expect_count(name, static_cast<std::int64_t>(copy_.size()), tokens);
    return;
  }
  tensor_.emplace(name, value);
  if (!tensor_->is(dlpack::kInt, 32) && !tensor_->is(dlpack::kInt, 64))
    wrong_value(std::string(name) + ".dtype", tensor_->dtype_name(), "int32 or int64");
  if (tensor_->ndim != 1) wrong_value(std::string(name) + ".shape", tensor_->shape_text(), "one dimension");
  expect_count(name, tensor_->shape[0], tokens);
  if (tensor_->dtype.bits == 64 && (tensor_->stride[0] == 1 || tokens < 2)) {
    in_place_ = reinterpret_cast<const std::int64_t*>(tensor_->data);
    return;
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::byte* at = tensor_->data + t * tensor_->stride[0] * tensor_->item_bytes();
    std::int32_t narrow = 0;
    std::int64_t wide = 0;
    if (tensor_->dtype.bits == 64) {
      std::memcpy(&wide, at, sizeof wide);
    } else {
      std::memcpy(&narrow, at, sizeof narrow);
      wide = narrow;
    }
    copy_.push_back(wide);
  }
}

AppendCall::AppendCall(const AppendInputs& given)
    : key_("key", given.key),
      value_("value", given.value),
      key_cache_("key_cache", given.key_cache, Access::write),
      value_cache_("value_cache", given.value_cache, Access::write) {
  const Layout layout = layout_of(given.layout);
  args.key = rows_of<const void*>(key_, layout);
  args.value = rows_of<const void*>(value_, layout);
  args.key_cache = output_of(key_cache_, layout);
  args.value_cache = output_of(value_cache_, layout);
  const std::int64_t tokens = args.key.shape[0] * args.key.shape[2], head_dim = args.key.shape[3];
  args.slot_mapping = slot_mapping_.emplace("slot_mapping", given.slot_mapping, tokens).data();
  set_query(given, layout);
  if (!given.key_norm.is_none())
    args.key_norm = weights_of(key_norm_.emplace("key_norm", given.key_norm), head_dim);
  if (!given.query_norm.is_none())
    args.query_norm = weights_of(query_norm_.emplace("query_norm", given.query_norm), head_dim);
  args.norm_eps = static_cast<float>(number_of("norm_eps", given.norm_eps));
  set_rotation(given, tokens);
  args.key_layout = key_layout_of(given.key_layout);
  if (!given.page_domains.is_none()) {
    page_domains_ =
        integers_of("page_domains", given.page_domains, args.key_cache.shape[0], "one for each page");
    args.page_domains = page_domains_.data();
  }
}

void AppendCall::set_query(const AppendInputs& given, Layout layout) {
  if (given.query.is_none()) {
    if (!given.query_out.is_none()) wrong_value("query_out", "given", "None, as query is None");
    return;
  }
  query_.emplace("query", given.query);
  args.query = rows_of<const void*>(*query_, layout);
  const std::span<const std::int64_t> shape(query_->shape.data(), static_cast<std::size_t>(query_->ndim));
  query_out_.emplace("query_out", given.query_out, given.query, shape, Output::Type::as_like);
  args.query_out = rows_of<void*>(query_out_->tensor(), layout);
}

void AppendCall::set_rotation(const AppendInputs& given, std::int64_t tokens) {
  const bool is_pair = PyTuple_Check(given.cos_sin.ptr()) || PyList_Check(given.cos_sin.ptr());
  if (is_pair) {
    if (nb::len(given.cos_sin) != 2)
      wrong_value("cos_sin", "of length " + std::to_string(nb::len(given.cos_sin)),
                  "a table, or a pair (cos, sin)");
    cos_.emplace("cos_sin[0]", given.cos_sin[0]);
    sin_.emplace("cos_sin[1]", given.cos_sin[1]);
  } else if (!given.cos_sin.is_none()) {
    cos_.emplace("cos_sin", given.cos_sin);
    if (width_of(*cos_) % 2 != 0)
      wrong_value("cos_sin.shape[1]", std::to_string(width_of(*cos_)),
                  "an even number: cosines, and as many sines");
  }
  if (!given.rotary_dim.is_none()) {
    args.rotary_dim = integer_of("rotary_dim", given.rotary_dim);
  } else if (cos_) {
    args.rotary_dim = is_pair ? 2 * width_of(*cos_) : width_of(*cos_);
  } else if (!given.positions.is_none()) {
    args.rotary_dim = args.key.shape[3];
  }
  args.rope_style = flag_of("interleaved", given.interleaved) ? RopeStyle::interleaved : RopeStyle::neox;
  args.rope_theta = number_of("rope_theta", given.rope_theta);
  args.rope_scale = number_of("rope_scale", given.rope_scale);
  if (!given.positions.is_none())
    args.positions = positions_.emplace("positions", given.positions, tokens).data();
  if (!cos_) return;
  const std::int64_t half = args.rotary_dim / 2;
  expect_table(*cos_, is_pair ? half : 2 * half);
  args.rope_cos = reinterpret_cast<const float*>(cos_->data);
  if (is_pair) {
    expect_table(*sin_, half);
    if (cos_->shape[0] != sin_->shape[0] || cos_->stride[0] != sin_->stride[0])
      wrong_value("cos_sin[1].shape", sin_->shape_text(), "the shape and strides of cos_sin[0]");
    args.rope_sin = reinterpret_cast<const float*>(sin_->data);
  } else {
    args.rope_sin = args.rope_cos + half;
  }
  args.rope_positions = cos_->shape[0];
  args.rope_stride = cos_->stride[0];
}

namespace {

nb::object kv_append_call(nb::handle key, nb::handle value, nb::handle key_cache, nb::handle value_cache,
                          nb::handle slot_mapping, nb::handle query, nb::handle query_out,
                          nb::handle positions, nb::handle rotary_dim, nb::handle interleaved,
                          nb::handle cos_sin, nb::handle rope_theta, nb::handle rope_scale,
                          nb::handle key_norm, nb::handle query_norm, nb::handle norm_eps, nb::handle layout,
                          nb::handle key_layout, nb::handle page_domains, nb::handle context) {
  const AppendCall call({key, value, key_cache, value_cache, slot_mapping, query, query_out, positions,
                         rotary_dim, interleaved, cos_sin, rope_theta, rope_scale, key_norm, query_norm,
                         norm_eps, layout, key_layout, page_domains});
  const Context chosen = context_of(context);
  without_gil([&] { return kv_append(chosen, call.args); });
  return call.result();
}

void convert_key_pages(nb::handle given, nb::handle to, nb::handle is_packed, nb::handle layout,
                       nb::handle context) {
  const bool pack = flag_of("is_packed", is_packed);
  const Imported source(pack ? "rows" : "tiles", given), target(pack ? "tiles" : "rows", to, Access::write);
  const Layout order = layout_of(layout);
  const ConstTensor from = input_of(source, order);
  const Tensor into = output_of(target, order);
  const Context chosen = context_of(context);
  without_gil([&] { return (pack ? pack_key_pages : unpack_key_pages)(chosen, from, into); });
}

}  // namespace

void bind_append(nb::module_& module) {
  using nb::arg;
  module.def("kv_append", &kv_append_call, arg("key").none(), arg("value").none(), arg("key_cache").none(),
             arg("value_cache").none(), arg("slot_mapping").none(), arg("query").none(),
             arg("query_out").none(), arg("positions").none(), arg("rotary_dim").none(),
             arg("interleaved").none(), arg("cos_sin").none(), arg("rope_theta").none(),
             arg("rope_scale").none(), arg("key_norm").none(), arg("query_norm").none(),
             arg("norm_eps").none(), arg("layout").none(), arg("key_layout").none(),
             arg("page_domains").none(), arg("context").none());
  module.def("convert_key_pages", &convert_key_pages, arg("given").none(), arg("to").none(),
             arg("is_packed").none(), arg("layout").none(), arg("context").none());
}

}  // namespace kumiko::python
