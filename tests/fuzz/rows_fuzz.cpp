// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/rows_fuzz.h"

#include <kumiko/kv_append_c.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "tests/fuzz/checks.h"
#include "tests/fuzz/conversion.h"

namespace kumiko::fuzz {
namespace {

constexpr std::int64_t kTile = 16;

/// Changes one thing that matters of two tensors. Whether the call must be refused.
bool change(Input& input, kumiko_const_tensor* from, kumiko_tensor* to) {
  const bool is_of_output = input.one_in(2);
  std::int32_t& dtype = is_of_output ? to->dtype : from->dtype;
  switch (input.below(3)) {
    case 0: {
      std::int64_t& size = (is_of_output ? to->shape : from->shape)[input.below(4)];
      const std::int64_t other = input.number();
      const bool is_changed = size != other;
      size = other;
      return is_changed;
    }
    case 1: {
      const auto type = static_cast<std::int32_t>(input.number());
      // Of a type that is taken, too, there may not be memory enough.
      if (is_tensor_type(type)) (is_of_output ? to->reserved : from->reserved) = 1;
      const bool is_changed = type != dtype || is_tensor_type(type);
      dtype = type;
      return is_changed;
    }
    default:
      (is_of_output ? to->data : *const_cast<void**>(&from->data)) = nullptr;
      return true;
  }
}

/// Calls visit(row's indices) for each row of a tensor.
template <class Visit>
void each_row(const std::int64_t* shape, Visit visit) {
  for (std::int64_t b = 0; b < shape[0]; ++b)
    for (std::int64_t h = 0; h < shape[1]; ++h)
      for (std::int64_t i = 0; i < shape[2]; ++i) visit(std::array{b, h, i});
}

std::size_t at_of(const std::array<std::int64_t, 3>& row, const std::int64_t* stride) {
  return static_cast<std::size_t>(row[0] * stride[0] + row[1] * stride[1] + row[2] * stride[2]);
}

constexpr std::int64_t kWidths[] = {1, 2, 7, 8, 15, 16, 17, 40};

class Quantization : public Conversion {
 public:
  explicit Quantization(Input& input) : Conversion("quantize_rows") {
    const int flags = input.byte();
    const std::array<std::int64_t, 4> shape{1 + input.below(3), 1 + input.below(3), 1 + input.below(9),
                                            input.pick(kWidths)};
    const auto order = [&](int bit) { return flags >> bit & 1 ? Layout::bshd : Layout::bhsd; };
    const std::int32_t type = kTypes[flags >> 2 & 3];
    const int broadcast = flags & 16 ? input.below(8) : 0;
    const Layout of_x(shape, order(0), broadcast, flags & 32 ? 3 : 0),
        of_out(shape, order(1), 0, flags & 64 ? 5 : 0);
    add(of_x, type, false, &x_).fill(static_cast<std::uint32_t>(input.byte()), (flags & 128) != 0);
    add(of_out, KUMIKO_I8, true, &out_);
    if (input.one_in(2)) {  // heads beside each other
      scale_stride_[0] = shape[1] * shape[2], scale_stride_[1] = 1, scale_stride_[2] = shape[1];
    }
    scale_ = &buffers_.emplace_back(shape[0] * shape[1] * shape[2], KUMIKO_F32, true);
    scale_data_ = static_cast<float*>(scale_->data());
    if (!input.one_in(3)) return;
    if (input.one_in(4)) {
      scale_data_ = nullptr, is_refused_ = true;
    } else {
      is_refused_ = change(input, &x_, &out_);
    }
  }

  kumiko_status call(const kumiko_context* context) const override {
    return kumiko_quantize_rows(context, &x_, &out_, scale_data_, scale_stride_);
  }
  void check_outputs() const override {
    const Buffer &x = buffers_[0], &out = buffers_[1];
    const auto strides = lse_strides(scale_stride_, x_.shape);
    std::vector<bool> written(out.size());
    each_row(x_.shape, [&](const std::array<std::int64_t, 3>& row) {
      const double scale = scale_->value(at_of(row, strides.data()), KUMIKO_F32);
      require(!std::isfinite(scale) || scale >= 0, "a row's scale is no less than 0", name_);
      for (std::int64_t d = 0; d < x_.shape[3]; ++d) {
        const std::size_t to = at_of(row, out_.stride) + static_cast<std::size_t>(d);
        written[to] = true;
        const double value = x.value(at_of(row, x_.stride) + static_cast<std::size_t>(d), x_.dtype),
                     number = static_cast<const signed char*>(out.data())[to];
        require(number >= -127, "numbers are -127 to 127", name_);
        if (std::isfinite(scale) && std::isfinite(value))
          require(std::fabs(value - number * scale) <= (0.5 + 0x1p-14) * scale, "a number is the nearest one",
                  std::to_string(value) + " is " + std::to_string(number) + " of " + std::to_string(scale));
      }
    });
    check_rest(out, written);
  }

 private:
  kumiko_const_tensor x_ = KUMIKO_TENSOR_INIT;
  kumiko_tensor out_ = KUMIKO_TENSOR_INIT;
  const Buffer* scale_ = nullptr;
  float* scale_data_ = nullptr;
  std::int64_t scale_stride_[3] = {0, 0, 0};
};

/// Keys from rows to tiles of 16, or back.
class KeyPages : public Conversion {
 public:
  KeyPages(Input& input, bool to_tiles)
      : Conversion(to_tiles ? "pack_key_pages" : "unpack_key_pages"), to_tiles_(to_tiles) {
    const int flags = input.byte();
    const std::int32_t type = kTypes[flags & 3];
    std::array<std::int64_t, 4> shape{1 + input.below(3), 1 + input.below(3), kTile * (1 + input.below(3)),
                                      input.pick(kWidths)};
    const Layout rows(shape, flags & 4 ? Layout::bshd : Layout::bhsd, 0, flags & 8 ? 3 : 0);
    const std::int64_t dim = shape[3];
    shape[3] = type == KUMIKO_F32 ? dim : dim + dim % 2;
    Layout tiles(shape, Layout::bhsd);
    tiles.shape[3] = dim;
    const Layout &from = to_tiles ? rows : tiles, &to = to_tiles ? tiles : rows;
    // The last tile is whole, though it has no more than its keys' dims.
    add_whole(from, type, false, &from_);
    add_whole(to, type, true, &to_);
    if (input.one_in(3)) is_refused_ = change(input, &from_, &to_);
  }

  kumiko_status call(const kumiko_context* context) const override {
    return to_tiles_ ? kumiko_pack_key_pages(context, &from_, &to_)
                     : kumiko_unpack_key_pages(context, &from_, &to_);
  }
  void check_outputs() const override {
    const Buffer &from = buffers_[0], &to = buffers_[1];
    const auto bytes = static_cast<std::size_t>(bytes_of(from_.dtype));
    const std::int64_t *const rows = to_tiles_ ? from_.stride : to_.stride, *const tiles = to_tiles_
                                                                                               ? to_.stride
                                                                                               : from_.stride;
    std::vector<bool> written(to.size());
    each_row(from_.shape, [&](const std::array<std::int64_t, 3>& row) {
      const std::size_t of_tile = at_of({row[0], row[1], row[2] / kTile * kTile}, tiles);
      for (std::int64_t d = 0; d < from_.shape[3]; ++d) {
        const std::int64_t column = row[2] % kTile,
                           in_tile = bytes == 4 ? d * kTile + column : (d / 2 * kTile + column) * 2 + d % 2;
        const std::size_t of_row = (at_of(row, rows) + static_cast<std::size_t>(d)) * bytes,
                          in_its_tile = (of_tile + static_cast<std::size_t>(in_tile)) * bytes,
                          read = to_tiles_ ? of_row : in_its_tile, made = to_tiles_ ? in_its_tile : of_row;
        require(std::memcmp(static_cast<const unsigned char*>(from.data()) + read,
                            static_cast<const unsigned char*>(to.data()) + made, bytes) == 0,
                "a key's bytes are in their place", name_);
        std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(made), bytes, true);
        // Beside the last of an odd number of dims.
        if (to_tiles_ && bytes == 2 && d % 2 == 0 && d + 1 == from_.shape[3])
          std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(made + bytes), bytes, true);
      }
    });
    check_rest(to, written);
  }

 private:
  template <class Tensor>
  void add_whole(Layout layout, std::int32_t type, bool is_output, Tensor* tensor) {
    const std::int64_t dim = layout.shape[3];
    if (is_output == to_tiles_) layout.shape[3] = layout.stride[2];
    add(layout, type, is_output, tensor);
    tensor->shape[3] = dim;
  }

  const bool to_tiles_;
  kumiko_const_tensor from_ = KUMIKO_TENSOR_INIT;
  kumiko_tensor to_ = KUMIKO_TENSOR_INIT;
};

}  // namespace

void fuzz_rows(Input& input, const kumiko_context* own, const kumiko_context* other,
               const kumiko_context* reference) {
  const int flags = input.byte();
  const long countdown = flags & 1 ? input.byte() : -1;
  if (flags & 2) {
    Quantization(input).fuzz(own, other, reference, countdown);
  } else {
    KeyPages(input, (flags & 4) != 0).fuzz(own, other, reference, countdown);
  }
}

}  // namespace kumiko::fuzz
