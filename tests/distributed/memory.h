// SPDX-License-Identifier: Apache-2.0
// Tensors of any type in memory of their own, and rows of them.
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "tests/support/random.h"

namespace kumiko::test {

inline std::int64_t element_bytes(DataType type) {
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
  return 0;
}

/// [batch, heads, rows, dim], contiguous in this order or with rows before heads.
class Memory {
 public:
  Memory() = default;
  Memory(std::int64_t batch, std::int64_t heads, std::int64_t rows, std::int64_t dim, DataType type,
         bool rows_first)
      : bytes_(static_cast<std::size_t>(batch * heads * rows * dim * element_bytes(type)) + 64,
               std::byte{0xC5}),
        view_(rows_first ? Tensor::bshd(bytes_.data(), batch, rows, heads, dim, type)
                         : Tensor::bhsd(bytes_.data(), batch, heads, rows, dim, type)) {}

  Tensor output() { return with_data<Tensor>(); }
  ConstTensor input() { return with_data<ConstTensor>(); }
  std::byte* row(std::int64_t b, std::int64_t h, std::int64_t i) {
    return bytes_.data() +
           (b * view_.stride[0] + h * view_.stride[1] + i * view_.stride[2]) * element_bytes(view_.dtype);
  }
  std::size_t row_bytes() const {
    return static_cast<std::size_t>(view_.shape[3] * element_bytes(view_.dtype));
  }
  const std::array<std::int64_t, 4>& shape() const { return view_.shape; }

  void draw(Random& random) {
    for (std::int64_t b = 0; b < view_.shape[0]; ++b)
      for (std::int64_t h = 0; h < view_.shape[1]; ++h)
        for (std::int64_t i = 0; i < view_.shape[2]; ++i)
          for (std::int64_t d = 0; d < view_.shape[3]; ++d)
            draw_element(random, row(b, h, i) + d * element_bytes(view_.dtype));
  }
  void poison() { std::memset(bytes_.data(), 0xFF, bytes_.size()); }  // NaN in every type of floats
  bool same_bytes(const Memory& other) const { return bytes_ == other.bytes_; }
  bool is_poisoned() const {
    for (const std::byte byte : bytes_) {
      if (byte != std::byte{0xFF}) return false;
    }
    return true;
  }

 private:
  template <class View>
  View with_data() {
    View view{bytes_.data(), view_.shape, view_.stride, view_.dtype};
    return view;
  }
  void draw_element(Random& random, std::byte* to) const {
    const std::uint64_t bits = random.bits();
    const float normal = random.normal();
    std::uint32_t wide = 0;
    std::memcpy(&wide, &normal, sizeof wide);
    switch (view_.dtype) {
      case DataType::f32:
      case DataType::i32:
        std::memcpy(to, &wide, 4);
        return;
      case DataType::bf16: {
        const auto upper = static_cast<std::uint16_t>(wide >> 16);
        std::memcpy(to, &upper, 2);
        return;
      }
      case DataType::f16: {  // 2^-4 to 4
        const auto half = static_cast<std::uint16_t>((bits & 0x83FF) | (11 + (bits >> 20) % 6) << 10);
        std::memcpy(to, &half, 2);
        return;
      }
      case DataType::i8:
        *to = static_cast<std::byte>(static_cast<std::int8_t>(static_cast<std::int64_t>(bits % 255) - 127));
        return;
      case DataType::boolean:
        *to = bits % 4 ? std::byte{1} : std::byte{0};
        return;
    }
  }

  std::vector<std::byte> bytes_;
  Tensor view_;
};

}  // namespace kumiko::test
