// SPDX-License-Identifier: Apache-2.0
#include "tests/support/tensor.h"

#include <algorithm>
#include <bit>

#include "kernels/element.h"
#include "tests/support/bits.h"
#include "tests/support/bochs.h"

namespace kumiko::test {

const char* to_string(Layout layout) {
  switch (layout) {
    case Layout::bhsd:
      return "bhsd";
    case Layout::bshd:
      return "bshd";
    case Layout::sbhd:
      return "sbhd";
    case Layout::padded:
      return "padded";
    case Layout::padded_bshd:
      return "padded_bshd";
    case Layout::expanded_heads:
      return "expanded_heads";
    case Layout::expanded_batch:
      return "expanded_batch";
    case Layout::expanded_seq:
      return "expanded_seq";
  }
  return "?";
}

const char* to_string(GuardedLse::Layout layout) {
  switch (layout) {
    case GuardedLse::Layout::none:
      return "none";
    case GuardedLse::Layout::contiguous:
      return "contiguous";
    case GuardedLse::Layout::defaulted:
      return "defaulted";
    case GuardedLse::Layout::bsh:
      return "bsh";
    case GuardedLse::Layout::padded:
      return "padded";
  }
  return "?";
}

Shape strides_of(Layout layout, const Shape& shape) {
  const auto [b, h, s, d] = shape;
  switch (layout) {
    case Layout::bhsd:
      return {h * s * d, s * d, d, 1};
    case Layout::bshd:
      return {s * h * d, d, h * d, 1};
    case Layout::sbhd:
      return {h * d, d, b * h * d, 1};
    case Layout::padded: {
      const std::int64_t row = d + 3, head = s * row + 7;
      return {h * head + 11, head, row, 1};
    }
    case Layout::padded_bshd: {
      const std::int64_t head = d + 5, row = h * head + 9;
      return {s * row + 13, head, row, 1};
    }
    case Layout::expanded_heads:
      return {s * d, 0, d, 1};
    case Layout::expanded_batch:
      return {0, s * d, d, 1};
    case Layout::expanded_seq:
      return {h * d, d, 0, 1};
  }
  return {};
}

bool is_poison(float value) {
  return std::bit_cast<std::uint32_t>(value) == kPoisonBits;
}
float poison() {
  return std::bit_cast<float>(kPoisonBits);
}

namespace {

std::size_t span_of(const Shape& shape, const Shape& stride) {
  std::int64_t last = 0;
  for (int i = 0; i < 4; ++i) {
    if (shape[i] == 0) return 0;
    last += (shape[i] - 1) * stride[i];
  }
  return static_cast<std::size_t>(last) + 1;
}

/// Whether every offset below the span is an element: layouts of as many elements as offsets have no gaps.
bool is_dense(const Shape& shape, const Shape& stride) {
  return static_cast<std::size_t>(shape[0] * shape[1] * shape[2] * shape[3]) == span_of(shape, stride) &&
         std::none_of(stride.begin(), stride.end(), [](std::int64_t s) { return s == 0; });
}

template <class Visit>
void for_each_offset(const Shape& shape, const Shape& stride, Visit visit) {
  for (std::int64_t b = 0; b < shape[0]; ++b)
    for (std::int64_t h = 0; h < shape[1]; ++h)
      for (std::int64_t s = 0; s < shape[2]; ++s)
        for (std::int64_t d = 0; d < shape[3]; ++d)
          visit(b * stride[0] + h * stride[1] + s * stride[2] + d * stride[3]);
}

}  // namespace

GuardedTensor::GuardedTensor(const Shape& shape, Layout layout, Flush flush)
    : shape_(shape),
      stride_(strides_of(layout, shape)),
      buffer_(span_of(shape, stride_) * sizeof(float), flush) {
  poison_all();
}

float& GuardedTensor::at(std::int64_t b, std::int64_t h, std::int64_t s, std::int64_t d) const {
  return data()[b * stride_[0] + h * stride_[1] + s * stride_[2] + d * stride_[3]];
}

void GuardedTensor::fill_normal(Random& random, float magnitude) const {
  for_each_offset(shape_, stride_, [&](std::int64_t i) { data()[i] = magnitude * random.normal(); });
}

void GuardedTensor::fill(float value) const {
  for_each_offset(shape_, stride_, [&](std::int64_t i) { data()[i] = value; });
}

void GuardedTensor::round_to(DataType type) const {
  for_each_offset(shape_, stride_, [&](std::int64_t i) { data()[i] = rounded(type, data()[i]); });
}

void GuardedTensor::poison_all() const {
  std::fill_n(data(), span(), poison());
}

std::vector<float> GuardedTensor::elements() const {
  std::vector<float> result(static_cast<std::size_t>(shape_[0] * shape_[1] * shape_[2] * shape_[3]));
  float* next = result.data();
  for_each_offset(shape_, stride_, [&](std::int64_t i) { *next++ = data()[i]; });
  return result;
}

::testing::AssertionResult GuardedTensor::gaps_untouched() const {
  if (!buffer_.slack_untouched())
    return ::testing::AssertionFailure() << "memory between the tensor and its far guard page was written";
  if (is_dense(shape_, stride_)) return ::testing::AssertionSuccess();
  std::vector<std::uint8_t> is_element(span());
  for_each_offset(shape_, stride_, [&](std::int64_t i) { is_element[static_cast<std::size_t>(i)] = 1; });
  for (std::size_t i = 0; i < span(); ++i)
    if (!is_element[i] && !is_poison(data()[i]))
      return ::testing::AssertionFailure()
             << "padding at float offset " << i << " was overwritten with " << data()[i];
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult GuardedTensor::all_untouched() const {
  if (!buffer_.slack_untouched())
    return ::testing::AssertionFailure() << "memory between the tensor and its far guard page was written";
  for (std::size_t i = 0; i < span(); ++i)
    if (!is_poison(data()[i]))
      return ::testing::AssertionFailure() << "float offset " << i << " was overwritten with " << data()[i];
  return ::testing::AssertionSuccess();
}

namespace {

constexpr std::uint16_t kNarrowPoison = 0x7FC5u;

std::uint16_t narrow(DataType type, float x) {
  if (type == DataType::bf16) {
    kernels::Bf16 y;
    kernels::from_float(x, &y);
    return y.bits;
  }
  kernels::F16 y;
  kernels::from_float(x, &y);
  return y.bits;
}
float widen(DataType type, std::uint16_t bits) {
  return type == DataType::bf16 ? kernels::to_float(kernels::Bf16{bits})
                                : kernels::to_float(kernels::F16{bits});
}

}  // namespace

float rounded(DataType type, float x) {
  return type == DataType::f32 ? x : widen(type, narrow(type, x));
}

::testing::AssertionResult are_rounded_once(std::span<const float> got, std::span<const float> exact,
                                            DataType type) {
  std::vector<float> want(exact.begin(), exact.end());
  for (float& x : want) x = rounded(type, x);
  if (type == DataType::f16 && got.size() == want.size()) allow_bochs_ties(got, exact, want);
  return same_bits(got, want);
}

NarrowTensor::NarrowTensor(const GuardedTensor& like, DataType type, Flush flush)
    : shape_(like.shape()), stride_(like.stride()), type_(type), buffer_(like.span() * 2, flush) {
  poison_all();
}

void NarrowTensor::copy(const GuardedTensor& wide) const {
  for_each_offset(shape_, stride_, [&](std::int64_t i) { data()[i] = narrow(type_, wide.data()[i]); });
}

void NarrowTensor::poison_all() const {
  std::fill_n(data(), buffer_.size() / 2, kNarrowPoison);
}

std::vector<float> NarrowTensor::elements() const {
  std::vector<float> result;
  for_each_offset(shape_, stride_, [&](std::int64_t i) { result.push_back(widen(type_, data()[i])); });
  return result;
}

::testing::AssertionResult NarrowTensor::gaps_untouched() const {
  if (!buffer_.slack_untouched())
    return ::testing::AssertionFailure() << "memory between the tensor and its far guard page was written";
  if (is_dense(shape_, stride_)) return ::testing::AssertionSuccess();
  std::vector<std::uint8_t> is_element(buffer_.size() / 2);
  for_each_offset(shape_, stride_, [&](std::int64_t i) { is_element[static_cast<std::size_t>(i)] = 1; });
  for (std::size_t i = 0; i < is_element.size(); ++i)
    if (!is_element[i] && data()[i] != kNarrowPoison)
      return ::testing::AssertionFailure() << "padding at offset " << i << " was overwritten";
  return ::testing::AssertionSuccess();
}

GuardedLse::GuardedLse(std::int64_t batch, std::int64_t heads, std::int64_t seq, Layout layout, Flush flush)
    : layout_(layout) {
  if (layout == Layout::none) return;
  const auto memory = layout == Layout::bsh      ? test::Layout::bshd
                      : layout == Layout::padded ? test::Layout::padded
                                                 : test::Layout::bhsd;
  tensor_ = GuardedTensor({batch, heads, seq, 1}, memory, flush);
}

LseView GuardedLse::view() const {
  if (layout_ == Layout::none) return {};
  if (layout_ == Layout::defaulted) return {tensor_.data(), {}};
  return {tensor_.data(), {tensor_.stride()[0], tensor_.stride()[1], tensor_.stride()[2]}};
}

}  // namespace kumiko::test
