// SPDX-License-Identifier: Apache-2.0
// kv_append.
#include <kumiko/kv_append.h>

#include <cstring>
#include <optional>
#include <vector>

#include "attention.h"
#include "call.h"
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

/// One int64 for each token: a contiguous tensor of that type in place, other integers copied.
class TokenNumbers {
 public:
  TokenNumbers(const char* name, nb::handle value, std::int64_t tokens) {
    if (PyList_Check(value.ptr()) || PyTuple_Check(value.ptr())) {
      for (const nb::handle item : nb::borrow<nb::object>(value)) copy_.push_back(integer_of(name, item));
      expect(name, static_cast<std::int64_t>(copy_.size()), tokens);
      return;
    }
    tensor_.emplace(name, value);
    if (!tensor_->is(dlpack::kInt, 32) && !tensor_->is(dlpack::kInt, 64))
      wrong_value(std::string(name) + ".dtype", tensor_->dtype_name(), "int32 or int64");
    if (tensor_->ndim != 1) wrong_value(std::string(name) + ".shape", tensor_->shape_text(), "one dimension");
    expect(name, tensor_->shape[0], tokens);
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
  const std::int64_t* data() const { return in_place_ ? in_place_ : copy_.data(); }

 private:
  static void expect(const char* name, std::int64_t count, std::int64_t tokens) {
    if (count != tokens)
      wrong_value(name, std::to_string(count) + " integers", std::to_string(tokens) + ", one for each token");
  }
  std::optional<Imported> tensor_;
  const std::int64_t* in_place_ = nullptr;
  std::vector<std::int64_t> copy_;
};

const float* weights_of(const Imported& tensor, std::int64_t head_dim) {
  expect_float32(tensor);
  if (tensor.ndim != 1 || tensor.shape[0] != head_dim || (tensor.stride[0] != 1 && head_dim > 1))
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                "(" + std::to_string(head_dim) + ",), contiguous");
  return reinterpret_cast<const float*>(tensor.data);
}

/// Rows of `width` floats, one for each position.
void expect_table(const Imported& tensor, std::int64_t width) {
  expect_float32(tensor);
  if (tensor.ndim != 2 || tensor.shape[1] != width || (tensor.stride[1] != 1 && width > 1))
    wrong_value(std::string(tensor.name) + ".shape", tensor.shape_text(),
                "(positions, " + std::to_string(width) + "), its rows contiguous");
}

nb::object kv_append_call(nb::handle key, nb::handle value, nb::handle key_cache, nb::handle value_cache,
                          nb::handle slot_mapping, nb::handle query, nb::handle query_out,
                          nb::handle positions, nb::handle rotary_dim, nb::handle interleaved, nb::handle cos,
                          nb::handle sin, nb::handle rope_theta, nb::handle rope_scale, nb::handle key_norm,
                          nb::handle query_norm, nb::handle norm_eps, nb::handle layout, nb::handle context) {
  const Layout order = layout_of(layout);
  const Imported key_tensor("key", key), value_tensor("value", value),
      key_pages("key_cache", key_cache, Access::write),
      value_pages("value_cache", value_cache, Access::write);
  KvAppendArgs args;
  args.key = rows_of<const void*>(key_tensor, order);
  args.value = rows_of<const void*>(value_tensor, order);
  args.key_cache = output_of(key_pages, order);
  args.value_cache = output_of(value_pages, order);
  const std::int64_t tokens = args.key.shape[0] * args.key.shape[2], head_dim = args.key.shape[3];
  const TokenNumbers slots("slot_mapping", slot_mapping, tokens);
  args.slot_mapping = slots.data();

  std::optional<Imported> query_tensor, key_weights, query_weights, cosines, sines;
  std::optional<Output> written;
  if (!query.is_none()) {
    query_tensor.emplace("query", query);
    args.query = rows_of<const void*>(*query_tensor, order);
    const std::span<const std::int64_t> shape(query_tensor->shape.data(),
                                              static_cast<std::size_t>(query_tensor->ndim));
    written.emplace("query_out", query_out, query, shape, Output::Type::as_like);
    args.query_out = rows_of<void*>(written->tensor(), order);
  } else if (!query_out.is_none()) {
    wrong_value("query_out", "given", "None, as query is None");
  }
  if (!key_norm.is_none()) args.key_norm = weights_of(key_weights.emplace("key_norm", key_norm), head_dim);
  if (!query_norm.is_none())
    args.query_norm = weights_of(query_weights.emplace("query_norm", query_norm), head_dim);
  args.norm_eps = static_cast<float>(number_of("norm_eps", norm_eps));

  args.rotary_dim = integer_of("rotary_dim", rotary_dim);
  args.rope_style = flag_of("interleaved", interleaved) ? RopeStyle::interleaved : RopeStyle::neox;
  args.rope_theta = number_of("rope_theta", rope_theta);
  args.rope_scale = number_of("rope_scale", rope_scale);
  std::optional<TokenNumbers> places;
  if (!positions.is_none()) args.positions = places.emplace("positions", positions, tokens).data();
  if (!cos.is_none()) {
    cosines.emplace("cos", cos);
    sines.emplace("sin", sin);
    expect_table(*cosines, args.rotary_dim / 2);
    expect_table(*sines, args.rotary_dim / 2);
    if (cosines->shape[0] != sines->shape[0] || cosines->stride[0] != sines->stride[0])
      wrong_value("sin.shape", sines->shape_text(), "the shape and strides of cos");
    args.rope_cos = reinterpret_cast<const float*>(cosines->data);
    args.rope_sin = reinterpret_cast<const float*>(sines->data);
    args.rope_positions = cosines->shape[0];
    args.rope_stride = cosines->stride[0];
  }
  const Context chosen = context_of(context);
  without_gil([&] { return kv_append(chosen, args); });
  return written ? written->result() : nb::none();
}

}  // namespace

void bind_append(nb::module_& module) {
  using nb::arg;
  module.def("kv_append", &kv_append_call, arg("key").none(), arg("value").none(), arg("key_cache").none(),
             arg("value_cache").none(), arg("slot_mapping").none(), arg("query").none(),
             arg("query_out").none(), arg("positions").none(), arg("rotary_dim").none(),
             arg("interleaved").none(), arg("cos").none(), arg("sin").none(), arg("rope_theta").none(),
             arg("rope_scale").none(), arg("key_norm").none(), arg("query_norm").none(),
             arg("norm_eps").none(), arg("layout").none(), arg("context").none());
}

}  // namespace kumiko::python
