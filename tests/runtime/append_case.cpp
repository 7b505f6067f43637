// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/append_case.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "kernels/element.h"
#include "runtime/problem.h"
#include "tests/support/key_tiles.h"
#include "tests/support/numbers.h"

namespace kumiko::test {
namespace {

using kernels::Element;

std::int64_t extent_of(const Shape& shape, const Shape& stride) {
  std::int64_t last = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    if (shape[i] == 0) return 0;
    last += (shape[i] - 1) * stride[i];
  }
  return last + 1;
}

void store(Element element, float x, void* to) {
  if (element == Element::f32) std::memcpy(to, &x, sizeof x);
  if (element == Element::bf16) kernels::from_float(x, static_cast<kernels::Bf16*>(to));
  if (element == Element::f16) kernels::from_float(x, static_cast<kernels::F16*>(to));
}

}  // namespace

std::ostream& operator<<(std::ostream& os, const AppendShape& s) {
  const auto types = {s.key_type,         s.key_cache_type, s.value_type,
                      s.value_cache_type, s.query_type,     s.query_out_type};
  os << "batch " << s.batch << " seq " << s.seq << " heads " << s.q_heads << "/" << s.kv_heads << " dims "
     << s.head_dim << "/" << s.v_head_dim << " page " << s.page_size << (s.key_tiles ? " tiles" : "")
     << (s.in_order ? " in order" : "") << " types";
  for (const DataType type : types) os << ' ' << static_cast<int>(type);
  return os << " layouts " << to_string(s.input_layout) << "/" << to_string(s.cache_layout) << " joint "
            << s.is_joint << " in place " << s.in_place << " skips " << s.skips << " rotary " << s.rotary_dim
            << " style " << static_cast<int>(s.style) << " tables " << s.has_tables << " norms " << s.key_norm
            << s.query_norm << " furthest " << s.furthest << " seed " << s.seed;
}

template <class View>
View AppendCase::tensor(const Shape& shape, Layout layout, DataType type, bool is_output) {
  View view{nullptr, shape, strides_of(layout, shape), type};
  const std::int64_t bytes = extent_of(shape, view.stride) * kernels::bytes_of(element_of(type));
  auto& home = is_output ? outputs_ : inputs_;
  home.push_back({GuardedBuffer(sz(bytes), random_.one_in(2) ? Flush::front : Flush::back), {}});
  view.data = home.back().buffer.data();
  std::memset(home.back().buffer.data(), 0xc5, sz(bytes));
  return view;
}

void AppendCase::fill(const ConstTensor& view) {
  const Element element = element_of(view.dtype);
  for (std::int64_t b = 0; b < view.shape[0]; ++b)
    for (std::int64_t h = 0; h < view.shape[1]; ++h)
      for (std::int64_t i = 0; i < view.shape[2]; ++i)
        for (std::int64_t d = 0; d < view.shape[3]; ++d) {
          const float x = random_.one_in(50) ? random_.pick({-0.0f, 1e-40f, 70000.0f, 1.00390625f, NAN})
                                             : random_.normal();
          const std::int64_t at =
              b * view.stride[0] + h * view.stride[1] + i * view.stride[2] + d * view.stride[3];
          store(element, x, kernels::element_at(element, const_cast<void*>(view.data), at));
        }
}

void AppendCase::place_caches(std::int64_t pages) {
  const AppendShape& s = shape_;
  const Shape keys = {pages, s.kv_heads, s.page_size, s.head_dim},
              values = {pages, s.kv_heads, s.page_size, s.v_head_dim};
  if (!s.is_joint) {
    if (s.key_tiles) {
      // Rows of whole lines; the elements beside an odd dim belong to the tiles.
      const std::int64_t width = tile_width(kernels::bytes_of(element_of(s.key_cache_type)), s.head_dim);
      args_.key_cache =
          tensor<Tensor>({pages, s.kv_heads, s.page_size, width}, Layout::bhsd, s.key_cache_type, true);
      args_.key_cache.shape[3] = s.head_dim;
      args_.key_layout = KeyLayout::tiles_of_16;
    } else {
      args_.key_cache = tensor<Tensor>(keys, s.cache_layout, s.key_cache_type, true);
    }
    args_.value_cache = tensor<Tensor>(values, s.cache_layout, s.value_cache_type, true);
    return;
  }
  // Page by page, its keys, then its values.
  const Shape halves = {2 * pages, s.kv_heads, s.page_size, s.head_dim};
  Tensor both = tensor<Tensor>(halves, s.cache_layout, s.key_cache_type, true);
  const std::int64_t half = both.stride[0];
  both.shape[0] = pages, both.stride[0] = 2 * half;
  args_.key_cache = args_.value_cache = both;
  args_.value_cache.data = kernels::element_at(element_of(both.dtype), both.data, half);
}

AppendCase::AppendCase(const AppendShape& shape) : shape_(shape), random_(shape.seed) {
  const AppendShape& s = shape_;
  const std::int64_t tokens = s.batch * s.seq, pages = tokens / s.page_size + 2;
  args_.key =
      tensor<ConstTensor>({s.batch, s.kv_heads, s.seq, s.head_dim}, s.input_layout, s.key_type, false);
  args_.value =
      tensor<ConstTensor>({s.batch, s.kv_heads, s.seq, s.v_head_dim}, s.input_layout, s.value_type, false);
  fill(args_.key), fill(args_.value);
  place_caches(pages);
  if (s.q_heads > 0) {
    const Shape queries = {s.batch, s.q_heads, s.seq, s.head_dim};
    args_.query = tensor<ConstTensor>(queries, s.input_layout, s.query_type, s.in_place);
    fill(args_.query);
    if (s.in_place)
      args_.query_out = {const_cast<void*>(args_.query.data), queries, args_.query.stride, s.query_type};
    else
      args_.query_out = tensor<Tensor>(queries, s.cache_layout, s.query_out_type, true);
  }
  // A random order of all rows of all pages: tokens lie anywhere.
  std::vector<std::int64_t> order(sz(pages * s.page_size));
  std::iota(order.begin(), order.end(), 0);
  for (auto i = static_cast<std::int64_t>(order.size()) - 1; i > 0; --i)
    std::swap(order[sz(i)], order[sz(random_.between(0, i))]);
  const std::int64_t first = random_.between(0, std::min<std::int64_t>(std::ssize(order) - tokens, 20));
  if (s.in_order) std::iota(order.begin(), order.end(), first);
  for (std::int64_t t = 0; t < tokens; ++t) {
    slots_.push_back(s.skips && random_.one_in(3) ? -1 : order[sz(t)]);
    positions_.push_back(random_.one_in(4) ? s.furthest : random_.between(0, s.furthest));
  }
  args_.slot_mapping = slots_.data();
  const auto weights = [&](std::vector<float>* to) {
    for (std::int64_t d = 0; d < s.head_dim; ++d) to->push_back(random_.normal());
    return to->data();
  };
  if (s.key_norm) args_.key_norm = weights(&key_norm_);
  if (s.query_norm) args_.query_norm = weights(&query_norm_);
  Random of_call(s.seed ^ 0xA99E);  // leaves the numbers of a seed as they are
  if (s.key_norm || s.query_norm) args_.norm_eps = of_call.pick({0.0f, 1e-6f, 0.1f, 3.0f});
  if (s.rotary_dim > 0) {
    args_.rotary_dim = s.rotary_dim, args_.rope_style = s.style, args_.positions = positions_.data();
    args_.rope_theta = random_.pick({10000.0, 500000.0, 1e6}), args_.rope_scale = random_.pick({1.0, 0.25});
    if (s.has_tables) {
      for (std::int64_t n = 0; n < (s.furthest + 1) * s.rotary_dim; ++n) tables_.push_back(random_.normal());
      args_.rope_cos = tables_.data(), args_.rope_positions = s.furthest + 1;
      const bool is_one = of_call.one_in(2);  // as vLLM's cos_sin_cache: a row of cosines, then sines
      args_.rope_sin = tables_.data() + s.rotary_dim / 2 * (is_one ? 1 : s.furthest + 1);
      args_.rope_stride = is_one ? s.rotary_dim : 0;
    }
  }
  for (auto* list : {&inputs_, &outputs_}) {
    for (Memory& m : *list) m.before.assign(m.buffer.data(), m.buffer.data() + m.buffer.size());
  }
}

void AppendCase::reset() const {
  for (const Memory& m : outputs_) std::copy(m.before.begin(), m.before.end(), m.buffer.data());
}

std::vector<std::byte> AppendCase::outputs() const {
  std::vector<std::byte> all;
  for (const Memory& m : outputs_) all.insert(all.end(), m.buffer.data(), m.buffer.data() + m.buffer.size());
  return all;
}

std::pair<float, float> AppendCase::turn(std::int64_t token, std::int64_t pair) const {
  const std::int64_t position = positions_[sz(token)];
  if (args_.rope_cos) {
    const std::int64_t at =
        position * (args_.rope_stride > 0 ? args_.rope_stride : args_.rotary_dim / 2) + pair;
    return {args_.rope_cos[at], args_.rope_sin[at]};
  }
  const double angle =
      (static_cast<double>(position) * args_.rope_scale) *
      std::pow(args_.rope_theta, -2.0 * static_cast<double>(pair) / static_cast<double>(args_.rotary_dim));
  return {static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))};
}

std::vector<float> AppendCase::row(const ConstTensor& in, std::int64_t b, std::int64_t h, std::int64_t i,
                                   const float* norm, bool is_rotated) const {
  std::vector<float> x;
  for (std::int64_t d = 0; d < in.shape[3]; ++d)
    x.push_back(kernels::load_element(element_of(in.dtype), in.data,
                                      b * in.stride[0] + h * in.stride[1] + i * in.stride[2] + d));
  if (norm) {
    float sum[16] = {};
    for (std::size_t d = 0; d < x.size(); ++d) sum[d % 16] = std::fma(x[d], x[d], sum[d % 16]);
    for (int width = 8; width > 0; width /= 2)
      for (int n = 0; n < width; ++n) sum[n] += sum[n + width];
    const float inverse = 1.0f / std::sqrt(sum[0] / static_cast<float>(x.size()) + args_.norm_eps);
    for (std::size_t d = 0; d < x.size(); ++d) x[d] = x[d] * inverse * norm[d];
  }
  const std::int64_t half = is_rotated ? args_.rotary_dim / 2 : 0;
  for (std::int64_t n = 0; n < half; ++n) {
    const bool is_neox = shape_.style == RopeStyle::neox;
    float &first = x[sz(is_neox ? n : 2 * n)], &second = x[sz(is_neox ? n + half : 2 * n + 1)];
    const auto [cos, sin] = turn(b * shape_.seq + i, n);
    const float rotated = first * cos - second * sin;
    second = second * cos + first * sin;
    first = rotated;
  }
  return x;
}

std::vector<std::byte> AppendCase::expected() const {
  reset();
  std::vector<std::byte> all = outputs();
  const auto write = [&](const Tensor& out, std::int64_t page, std::int64_t h, std::int64_t to,
                         const ConstTensor& in, std::int64_t b, std::int64_t i, const float* norm,
                         bool is_rotated) {
    const Element element = element_of(out.dtype);
    const bool is_tile = shape_.key_tiles && out.data == args_.key_cache.data;
    const std::int64_t first = page * out.stride[0] + h * out.stride[1] + (is_tile ? 0 : to * out.stride[2]);
    std::size_t before = 0, m = 0;  // of the output's memory in `all`
    const auto* const data = static_cast<const std::byte*>(kernels::element_at(element, out.data, first));
    for (; data < outputs_[m].buffer.data() || data >= outputs_[m].buffer.data() + outputs_[m].buffer.size();
         ++m)
      before += outputs_[m].buffer.size();
    const std::size_t at = before + static_cast<std::size_t>(data - outputs_[m].buffer.data());
    const bool is_copy = in.dtype == out.dtype && !norm && !(is_rotated && args_.rotary_dim > 0);
    std::vector<float> values = row(in, b, h, i, norm, is_rotated);
    const std::int64_t bytes = kernels::bytes_of(element), dim = std::ssize(values);
    if (is_tile) values.resize(sz(tile_width(bytes, dim)), 0.0f);
    for (std::size_t d = 0; d < values.size(); ++d) {
      const float x = is_copy ? values[d] : kernels::canonical(values[d]);
      const auto place = static_cast<std::int64_t>(d);
      store(element, x,
            all.data() + at + sz((is_tile ? place_in_tiles(bytes, dim, to, place) : place) * bytes));
    }
  };
  for (std::int64_t t = 0; t < shape_.batch * shape_.seq; ++t) {
    const std::int64_t b = t / shape_.seq, i = t % shape_.seq, slot = slots_[sz(t)];
    for (std::int64_t h = 0; slot >= 0 && h < shape_.kv_heads; ++h) {
      const std::int64_t page = slot / shape_.page_size, to = slot % shape_.page_size;
      write(args_.key_cache, page, h, to, args_.key, b, i, args_.key_norm, true);
      write(args_.value_cache, page, h, to, args_.value, b, i, nullptr, false);
    }
    for (std::int64_t h = 0; h < shape_.q_heads; ++h)
      write(args_.query_out, b, h, i, args_.query, b, i, args_.query_norm, true);
  }
  return all;
}

::testing::AssertionResult AppendCase::inputs_intact() const {
  for (const Memory& m : inputs_) {
    if (std::memcmp(m.buffer.data(), m.before.data(), m.before.size()) != 0)
      return ::testing::AssertionFailure() << "an input was written to";
  }
  for (const auto* list : {&inputs_, &outputs_}) {
    for (const Memory& m : *list) {
      if (!m.buffer.slack_untouched()) return ::testing::AssertionFailure() << "written beside a tensor";
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace kumiko::test
