// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/int8_case.h"

#include <algorithm>
#include <cmath>

namespace kumiko::test {
namespace {

Layout layout_of_scales(Layout layout) {
  const bool is_expanded =
      layout == Layout::expanded_heads || layout == Layout::expanded_batch || layout == Layout::expanded_seq;
  return is_expanded ? layout : Layout::padded_bshd;
}

}  // namespace

Int8Rows::Int8Rows(const GuardedTensor& like, Layout layout, Flush flush)
    : shape_(like.shape()),
      stride_(like.stride()),
      buffer_(like.span(), flush),
      scales_({shape_[0], shape_[1], shape_[2], 1}, layout_of_scales(layout), flush) {
  std::fill_n(reinterpret_cast<std::int8_t*>(buffer_.data()), buffer_.size(), std::int8_t{-77});
}

ScaleView Int8Rows::scale() const {
  return {scales_.data(), {scales_.stride()[0], scales_.stride()[1], scales_.stride()[2]}};
}

void Int8Rows::quantize(const GuardedTensor& wide) const {
  for (std::int64_t b = 0; b < shape_[0]; ++b) {
    for (std::int64_t h = 0; h < shape_[1]; ++h) {
      for (std::int64_t s = 0; s < shape_[2]; ++s) {
        float most = 0;
        for (std::int64_t d = 0; d < shape_[3]; ++d)
          most =
              std::isfinite(wide.at(b, h, s, d)) ? std::max(most, std::abs(wide.at(b, h, s, d))) : INFINITY;
        const float scale = rounded(DataType::bf16, most / 126.0f);
        scale_at(b, h, s) = std::isfinite(most) ? scale : poison();
        for (std::int64_t d = 0; d < shape_[3]; ++d) {
          const bool is_number = std::isfinite(most) && scale > 0;
          const float x = is_number ? std::nearbyint(wide.at(b, h, s, d) / scale) : 0.0f;
          at(b, h, s, d) = static_cast<std::int8_t>(x);
          if (std::isfinite(most)) wide.at(b, h, s, d) = x * scale;
        }
      }
    }
  }
}

Int8Problem::Int8Problem(const Case& c)
    : wide(c),
      q(wide.q, c.q_layout, c.seed % 2 ? Flush::front : Flush::back),
      k(wide.k, c.k_layout, c.seed % 3 ? Flush::front : Flush::back) {
  q.quantize(wide.q);
  k.quantize(wide.k);
}

AttentionArgs Int8Problem::args(Pipeline pipeline) const {
  AttentionArgs args = wide.args(pipeline);
  args.q = q.input(), args.k = k.input();
  args.q_scale = q.scale(), args.k_scale = k.scale();
  args.precision = Precision::int8;
  return args;
}

Outcome Int8Problem::run(const Context& context, Pipeline pipeline) const {
  return wide.run(context, args(pipeline));
}

}  // namespace kumiko::test
