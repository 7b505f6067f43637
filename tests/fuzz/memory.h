// SPDX-License-Identifier: Apache-2.0
// The harness's tensors: blocks of exactly their size, values of every element type, and its own decision, in
// 128 bits and independent of the library, which shapes and strides are valid.
#pragma once

#include <kumiko/attention_c.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <vector>

namespace kumiko::fuzz {

__extension__ using Wide = __int128;

inline constexpr std::int64_t kMaxSize = std::numeric_limits<std::int32_t>::max();
inline constexpr std::int64_t kMaxBytes = std::numeric_limits<std::int64_t>::max();

/// Types of tensors; f32 twice, to be more frequent.
inline constexpr std::int32_t kTypes[] = {KUMIKO_F32, KUMIKO_BF16, KUMIKO_F16, KUMIKO_F32};
inline constexpr std::int64_t kDims[] = {1, 2, 7, 8, 15, 16, 17};

int bytes_of(std::int32_t dtype);
inline bool is_precision(std::int32_t precision) {
  return precision >= KUMIKO_PRECISION_AUTOMATIC && precision <= KUMIKO_PRECISION_INT8;
}
inline bool is_tensor_type(std::int32_t dtype) {
  return dtype >= KUMIKO_F32 && dtype <= KUMIKO_F16;
}
/// The relative distance of neighbouring values of a type: two correct results may round to neighbours. 0 for
/// f32, whose tolerances include it.
inline double step_of(std::int32_t dtype) {
  return dtype == KUMIKO_BF16 ? 0x1p-7 : dtype == KUMIKO_F16 ? 0x1p-10 : 0.0;
}
inline bool is_known_type(std::int32_t dtype) {
  return dtype >= KUMIKO_F32 && dtype <= KUMIKO_I8;
}

/// Heap memory of exactly its size, so that AddressSanitizer finds an access one byte past it.
class Buffer {
 public:
  Buffer(std::int64_t count, std::int32_t dtype, bool is_output);

  /// null if there are no bytes.
  void* data() const { return bytes_.get(); }
  std::size_t size() const { return size_; }
  bool is_output() const { return is_output_; }
  /// Fills with numbers below 2 in absolute value, booleans of which one in four is 0, or integers below
  /// 2^15; `with_specials`: with infinities and NaNs.
  void fill(std::uint32_t seed, bool with_specials);
  /// Sets one element in `one_in` to `value`.
  void sprinkle(std::uint32_t seed, int one_in, double value);
  void poison();
  bool is_poisoned(std::size_t begin, std::size_t end) const;
  bool is_poisoned() const { return is_poisoned(0, size_); }
  /// The bytes read as an element of this type.
  double value(std::size_t i, std::int32_t dtype) const;

 private:
  void set(std::size_t i, double value);

  std::unique_ptr<unsigned char[]> bytes_;
  std::size_t size_;
  std::int32_t dtype_;
  bool is_output_;
};

/// A tensor of a call, as the library must read it.
struct Operand {
  const char* name;
  const void* data;
  std::int32_t dtype;
  int dims;
  std::array<std::int64_t, 4> shape, stride;
  std::size_t home;  ///< number of the buffer made for it
  bool is_output;
};

bool is_empty(const std::int64_t* shape, int dims);
inline bool is_empty(const Operand& o) {
  return is_empty(o.shape.data(), o.dims);
}
/// Elements from the first to one past the last.
Wide extent_of(const std::int64_t* shape, const std::int64_t* stride, int dims);
/// Whether a tensor may have this shape and these strides.
bool fits(const std::int64_t* shape, const std::int64_t* stride, int dims);
template <class Tensor>
bool fits(const Tensor& t) {
  return t.reserved == 0 && fits(t.shape, t.stride, 4);
}
/// The same for a tensor whose last stride is 1.
template <class Tensor>
bool has_rows(const Tensor& t) {
  return fits(t) && (is_empty(t.shape, 4) || t.shape[3] == 1 || t.stride[3] == 1);
}
/// Strides of [batch, heads, queries]; if all are 0, those of contiguous memory.
std::array<std::int64_t, 4> lse_strides(const std::int64_t* stride, const std::int64_t* shape);

/// Calls visit(offset) for every element, the last dimension fastest, until it returns false.
template <class Visit>
bool each_element(const Operand& o, Visit visit) {
  if (is_empty(o)) return true;
  std::array<std::int64_t, 4> index{};
  for (;;) {
    std::int64_t at = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(o.dims); ++i)
      at += o.shape[i] > 1 ? index[i] * o.stride[i] : 0;
    if (!visit(static_cast<std::size_t>(at))) return false;
    int i = o.dims - 1;
    while (i >= 0 && ++index[static_cast<std::size_t>(i)] == o.shape[static_cast<std::size_t>(i)])
      index[static_cast<std::size_t>(i--)] = 0;
    if (i < 0) return true;
  }
}

/// The layout of a valid tensor.
struct Layout {
  enum Order { bhsd, bshd, transposed };
  std::array<std::int64_t, 4> shape{}, stride{};
  /// `broadcast`: a bit for each dimension with a stride of 0; `pad`: elements between rows.
  Layout(std::array<std::int64_t, 4> sizes, Order order, int broadcast = 0, std::int64_t pad = 0);
  std::int64_t extent() const { return static_cast<std::int64_t>(extent_of(shape.data(), stride.data(), 4)); }

  template <class Tensor>
  void place(const Buffer& buffer, std::int32_t dtype, Tensor* tensor) const {
    tensor->data = buffer.data();
    tensor->dtype = dtype;
    std::memcpy(tensor->shape, shape.data(), sizeof tensor->shape);
    std::memcpy(tensor->stride, stride.data(), sizeof tensor->stride);
  }
};

}  // namespace kumiko::fuzz
