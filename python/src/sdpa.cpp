// SPDX-License-Identifier: Apache-2.0
// scaled_dot_product_attention with PyTorch's meaning of its arguments. Tensors are [..., heads, length,
// dim]; dimensions before the heads broadcast, and so do the heads without enable_gqa.
#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "attention.h"
#include "call.h"
#include "context.h"

namespace kumiko::python {
namespace {

enum Operand : std::uint8_t { kQuery, kKey, kValue, kOut, kMask, kOperands };

/// A dimension before the heads: its size, and each operand's stride in elements.
struct Outer {
  std::int64_t size = 1;
  std::array<std::int64_t, kOperands> stride{};
};

/// The size of a dimension counted from the end; 1 if the tensor lacks it.
std::int64_t size_of(const Imported& tensor, int index) {
  return -index <= tensor.ndim ? tensor.size(index) : 1;
}
std::int64_t step_of(const Imported& tensor, int index) {
  return size_of(tensor, index) == 1 ? 0 : tensor.step(index);
}

void expect_size(const Imported& tensor, int index, std::int64_t expected, const std::string& why) {
  if (tensor.size(index) != expected)
    wrong_value(std::string(tensor.name) + ".shape[" + std::to_string(index) + "]",
                std::to_string(tensor.size(index)), std::to_string(expected) + why);
}

class Sdpa {
 public:
  Sdpa(nb::handle query, nb::handle key, nb::handle value, nb::handle mask, bool is_gqa)
      : like_(query), query_("query", query), key_("key", key), value_("value", value) {
    if (!mask.is_none()) mask_.emplace("attn_mask", mask);
    rank_ = std::max({query_.ndim, key_.ndim, value_.ndim});
    check_ranks();
    check_matrices();
    set_heads(is_gqa);
    make_out();
    set_outer();
    set_views();
  }

  void set_options(bool is_causal, nb::handle scale) {
    args_.is_causal = is_causal;
    args_.causal_alignment = CausalAlignment::top_left;
    args_.scale = scale_of(scale);
  }
  Status run(const Context& context) const;
  nb::object result() const { return out_->result(); }

 private:
  void check_ranks() const;
  void check_matrices() const;
  void set_heads(bool is_gqa);
  void make_out();
  void set_outer();
  void set_views();
  std::int64_t broadcast(int index) const;
  template <class Pointer>
  View<Pointer> view_of(Operand operand, std::int64_t heads, std::int64_t rows, std::int64_t columns) const;

  /// Null for an absent mask.
  const Imported* operand(std::size_t number) const {
    const std::array<const Imported*, kOperands> all = {
        &query_, &key_, &value_, out_ ? &out_->tensor() : nullptr, mask_ ? &*mask_ : nullptr};
    return all[number];
  }

  nb::handle like_;
  Imported query_, key_, value_;
  std::optional<Imported> mask_;
  std::optional<Output> out_;
  int rank_ = 0;
  std::int64_t heads_ = 1, kv_heads_ = 1;
  std::vector<Outer> outer_;  // outermost first; the last one is the library's batch
  AttentionArgs args_;        // of the first of each outer dimension
};

void Sdpa::check_ranks() const {
  for (const Imported* tensor : {&query_, &key_, &value_}) {
    if (tensor->ndim < 2)
      wrong_value(std::string(tensor->name) + ".shape", tensor->shape_text(), "two dimensions or more");
  }
  if (mask_ && mask_->ndim > rank_)
    wrong_value("attn_mask.shape", mask_->shape_text(), "at most " + std::to_string(rank_) + " dimensions");
}

void Sdpa::check_matrices() const {
  expect_size(key_, -1, query_.size(-1), ", as in query");
  expect_size(value_, -2, key_.size(-2), ", as in key");
  if (!mask_) return;
  if (size_of(*mask_, -1) != 1) expect_size(*mask_, -1, key_.size(-2), ", as in key, or 1");
  if (size_of(*mask_, -2) != 1) expect_size(*mask_, -2, query_.size(-2), ", as in query, or 1");
}

/// The size of a dimension that query, key and value share, where each has it or 1.
std::int64_t Sdpa::broadcast(int index) const {
  const Imported* wide = &query_;
  for (const Imported* tensor : {&key_, &value_}) {
    const std::int64_t size = size_of(*tensor, index), sofar = size_of(*wide, index);
    if (size == 1 || size == sofar) continue;
    if (sofar != 1)
      expect_size(*tensor, index, sofar,
                  std::string(", as in ") + wide->name +
                      (index == -3 ? ", or 1; with enable_gqa=True a divisor of query's" : ", or 1"));
    wide = tensor;
  }
  return size_of(*wide, index);
}

void Sdpa::set_heads(bool is_gqa) {
  kv_heads_ = size_of(key_, -3);
  if (!is_gqa) {
    heads_ = broadcast(-3);
    if (kv_heads_ != 1 || size_of(value_, -3) != 1) kv_heads_ = heads_;
  } else {
    heads_ = size_of(query_, -3);
    if (size_of(value_, -3) != kv_heads_)
      check({Code::unsupported, "value.shape[-3] is " + std::to_string(size_of(value_, -3)) + "; expected " +
                                    std::to_string(kv_heads_) + ", as in key"});
    if (kv_heads_ == 0 || heads_ % kv_heads_ != 0)
      wrong_value("key.shape[-3]", std::to_string(kv_heads_),
                  "a divisor of query.shape[-3], which is " + std::to_string(heads_));
  }
  if (mask_ && size_of(*mask_, -3) != 1) expect_size(*mask_, -3, heads_, ", the number of heads, or 1");
}

void Sdpa::make_out() {
  std::vector<std::int64_t> shape;
  for (int index = -rank_; index < -3; ++index) {
    shape.push_back(broadcast(index));
    if (mask_ && size_of(*mask_, index) != 1) expect_size(*mask_, index, shape.back(), ", as in query, or 1");
  }
  if (rank_ >= 3) shape.push_back(heads_);
  shape.push_back(query_.size(-2));
  shape.push_back(value_.size(-1));
  out_.emplace("out", nb::none(), like_, shape, Output::Type::as_like);
}

/// Dimensions that every operand steps through as through one are one.
void Sdpa::set_outer() {
  for (int index = -rank_; index < -3; ++index) {
    Outer next{out_->tensor().size(index), {}};
    for (std::size_t i = 0; i < kOperands; ++i) {
      if (operand(i)) next.stride[i] = step_of(*operand(i), index);
    }
    if (next.size == 1) continue;
    const auto continues = [&](std::size_t i) {
      return outer_.back().stride[i] == next.size * next.stride[i];
    };
    bool is_one = !outer_.empty();
    for (std::size_t i = 0; is_one && i < kOperands; ++i) is_one = continues(i);
    if (is_one) {
      next.size *= outer_.back().size;
      outer_.back() = next;
    } else {
      outer_.push_back(next);
    }
  }
  if (outer_.empty()) outer_.emplace_back();
}

template <class Pointer>
View<Pointer> Sdpa::view_of(Operand number, std::int64_t heads, std::int64_t rows,
                            std::int64_t columns) const {
  const Imported& tensor = *operand(number);
  View<Pointer> view;
  view.data = tensor.data;
  view.dtype = tensor.is(dlpack::kBool, 8) && number == kMask ? DataType::boolean : dtype_of(tensor);
  view.shape = {outer_.back().size, heads, rows, columns};
  view.stride = {outer_.back().stride[number], step_of(tensor, -3), step_of(tensor, -2), step_of(tensor, -1)};
  if (view.shape[3] == 1 && number != kMask) view.stride[3] = 1;
  return view;
}

void Sdpa::set_views() {
  const std::int64_t q_len = query_.size(-2), kv_len = key_.size(-2), dim = query_.size(-1);
  args_.q = view_of<const void*>(kQuery, heads_, q_len, dim);
  args_.k = view_of<const void*>(kKey, kv_heads_, kv_len, dim);
  args_.v = view_of<const void*>(kValue, kv_heads_, kv_len, value_.size(-1));
  args_.out = view_of<void*>(kOut, heads_, q_len, value_.size(-1));
  for (const auto& [tensor, view] : {std::pair{&key_, &args_.k}, std::pair{&value_, &args_.v}}) {
    if (view->dtype != args_.q.dtype)
      wrong_value(std::string(tensor->name) + ".dtype", tensor->dtype_name(),
                  query_.dtype_name() + ", as in query");
  }
  if (!mask_) return;
  ConstTensor& term = mask_->is(dlpack::kBool, 8) ? args_.mask : args_.bias;
  term = view_of<const void*>(kMask, heads_, q_len, kv_len);
}

Status Sdpa::run(const Context& context) const {
  std::vector<std::int64_t> at(outer_.size() - 1);  // the loop over all outer dimensions but the last
  for (const Outer& dim : outer_) {
    if (dim.size == 0) return {};
  }
  for (;;) {
    AttentionArgs args = args_;
    const auto move = [&]<class Pointer>(View<Pointer>& view, Operand number) {
      std::int64_t elements = 0;
      for (std::size_t i = 0; i < at.size(); ++i) elements += at[i] * outer_[i].stride[number];
      if (view.data) view.data = operand(number)->data + elements * operand(number)->item_bytes();
    };
    move(args.q, kQuery);
    move(args.k, kKey);
    move(args.v, kValue);
    move(args.out, kOut);
    move(args.bias, kMask);
    move(args.mask, kMask);
    if (Status s = attention_forward(context, args); !s.ok()) return s;
    std::size_t dim = at.size();
    while (dim > 0 && ++at[dim - 1] == outer_[dim - 1].size) at[--dim] = 0;
    if (dim == 0) return {};
  }
}

/// A message of the library with this function's names of the arguments.
std::string renamed(const std::string& message) {
  for (const auto& [from, to] :
       {std::pair{"q.", "query."}, std::pair{"k.", "key."}, std::pair{"v.", "value."},
        std::pair{"bias.", "attn_mask."}, std::pair{"mask.", "attn_mask."}}) {
    if (message.starts_with(from)) return to + message.substr(std::string(from).size());
  }
  return message;
}

nb::object scaled_dot_product_attention(nb::handle query, nb::handle key, nb::handle value,
                                        nb::handle attn_mask, nb::handle dropout_p, nb::handle is_causal,
                                        nb::handle scale, nb::handle enable_gqa) {
  if (const double p = number_of("dropout_p", dropout_p); p != 0.0)
    check(
        {Code::unsupported, "dropout_p is " + std::to_string(p) + "; expected 0: there is no dropout here"});
  const bool causal = flag_of("is_causal", is_causal);
  if (causal && !attn_mask.is_none()) wrong_value("attn_mask", "a tensor", "None where is_causal is True");
  Sdpa call(query, key, value, attn_mask, flag_of("enable_gqa", enable_gqa));
  call.set_options(causal, scale);
  const Context context = context_of(nb::none());
  without_gil([&] {
    const Status status = call.run(context);
    return Status(status.code(), renamed(status.message()));
  });
  return call.result();
}

}  // namespace

void bind_scaled_dot_product_attention(nb::module_& module) {
  using nb::arg;
  module.def("scaled_dot_product_attention", &scaled_dot_product_attention, arg("query").none(),
             arg("key").none(), arg("value").none(), arg("attn_mask").none(), arg("dropout_p").none(),
             arg("is_causal").none(), arg("scale").none(), arg("enable_gqa").none());
}

}  // namespace kumiko::python
