// SPDX-License-Identifier: Apache-2.0
#include "tests/runtime/bias_gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "kernels/element.h"
#include "runtime/problem.h"

namespace kumiko::test {

std::ostream& operator<<(std::ostream& os, const Sharing& s) {
  os << "dbias type " << static_cast<int>(s.type) << (s.transposed ? " transposed" : "")
     << (s.has_gaps ? " gaps" : "") << " own";
  for (const bool own : s.own) os << ' ' << own;
  return os;
}

Sharing draw_sharing(Random& random) {
  Sharing s;
  for (bool& own : s.own) own = !random.one_in(3);
  s.transposed = random.one_in(3), s.has_gaps = random.one_in(2);
  s.type = random.pick({DataType::f32, DataType::f32, DataType::bf16, DataType::f16});
  return s;
}

BiasGradient::BiasGradient(const Shape& shape, const Sharing& sharing, Flush flush)
    : shape_(shape), own_(shape), type_(sharing.type) {
  std::int64_t step = 1, last = 0;
  for (const int d : {sharing.transposed ? 2 : 3, sharing.transposed ? 3 : 2, 1, 0}) {
    const auto i = static_cast<std::size_t>(d);
    stride_[i] = sharing.own[d] ? step : 0;
    if (!sharing.own[d]) own_[i] = std::min<std::int64_t>(shape[i], 1);
    last += std::max<std::int64_t>(own_[i] - 1, 0) * stride_[i];
    if (sharing.own[d]) step = step * std::max<std::int64_t>(shape[i], 1) + (sharing.has_gaps ? 3 : 0);
  }
  buffer_ = GuardedBuffer(count() == 0 ? 0 : static_cast<std::size_t>((last + 1) * bytes()), flush);
  poison();
}

void BiasGradient::poison() const {
  std::memset(buffer_.data(), 0xFF, buffer_.size());
}

std::vector<float> BiasGradient::elements() const {
  std::vector<float> all;
  std::vector<bool> is_element(buffer_.size());
  for (std::int64_t n = 0; n < count(); ++n) {
    const std::int64_t j = n % own_[3], i = n / own_[3] % own_[2], h = n / own_[3] / own_[2] % own_[1],
                       b = n / own_[3] / own_[2] / own_[1],
                       at = b * stride_[0] + h * stride_[1] + i * stride_[2] + j * stride_[3];
    all.push_back(kernels::load_element(element_of(type_), buffer_.data(), at));
    for (std::int64_t byte = 0; byte < bytes(); ++byte)
      is_element[static_cast<std::size_t>(at * bytes() + byte)] = true;
  }
  for (std::size_t at = 0; at < buffer_.size(); ++at) {
    if (!is_element[at]) {
      EXPECT_EQ(std::to_integer<int>(buffer_.data()[at]), 0xFF) << "byte " << at;
    }
  }
  EXPECT_TRUE(buffer_.slack_untouched());
  return all;
}

std::int64_t BiasGradient::bytes() const {
  return kernels::bytes_of(element_of(type_));
}

}  // namespace kumiko::test
