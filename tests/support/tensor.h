// SPDX-License-Identifier: Apache-2.0
// Strided f32 tensors between guard pages, everything that is not an element poisoned.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/attention.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random.h"

namespace kumiko::test {

using Shape = std::array<std::int64_t, 4>;  ///< [batch, heads, seq, dim]

enum class Layout {
  bhsd,            ///< contiguous [batch, heads, seq, dim]
  bshd,            ///< contiguous [batch, seq, heads, dim]
  sbhd,            ///< contiguous [seq, batch, heads, dim]
  padded,          ///< bhsd with odd gaps after every row, head and batch
  padded_bshd,     ///< bshd with odd gaps after every row and position
  expanded_heads,  ///< head stride 0: one head's memory seen as all (inputs only)
  expanded_batch,  ///< batch stride 0 (inputs only)
  expanded_seq,    ///< seq stride 0: every row the same memory (inputs only)
};
const char* to_string(Layout layout);
Shape strides_of(Layout layout, const Shape& shape);

/// Quiet NaN with a payload that no arithmetic produces: it marks memory that must not be read (inputs) or
/// written (outputs).
inline constexpr std::uint32_t kPoisonBits = 0x7FC5EED1u;
bool is_poison(float value);
float poison();

/// A [batch, heads, seq, dim] tensor flush against a guard page. All memory starts as poison.
class GuardedTensor {
 public:
  GuardedTensor() = default;
  GuardedTensor(const Shape& shape, Layout layout, Flush flush);

  const Shape& shape() const { return shape_; }
  const Shape& stride() const { return stride_; }
  float& at(std::int64_t b, std::int64_t h, std::int64_t s, std::int64_t d) const;
  float* data() const { return reinterpret_cast<float*>(buffer_.data()); }
  std::size_t span() const { return buffer_.size() / sizeof(float); }
  ConstTensor input() const { return {data(), shape_, stride_}; }
  Tensor output() const { return {data(), shape_, stride_}; }

  /// Sets every element to magnitude * normal().
  void fill_normal(Random& random, float magnitude = 1.0f) const;
  void fill(float value) const;
  /// Poisons everything again, elements and gaps alike.
  void poison_all() const;
  /// Rounds every element to a narrower type.
  void round_to(DataType type) const;
  /// Elements in logical order, contiguous.
  std::vector<float> elements() const;
  /// Whether the gaps between elements are still poison and the slack before the guard page is untouched.
  ::testing::AssertionResult gaps_untouched() const;
  /// Whether every bit of the tensor, elements included, is still poison.
  ::testing::AssertionResult all_untouched() const;

 private:
  Shape shape_{};
  Shape stride_{};
  GuardedBuffer buffer_;
};

/// A tensor of a 16-bit type between guard pages, with the shape and strides of a GuardedTensor. All memory
/// starts as 0x7FC5, a NaN in both types.
class NarrowTensor {
 public:
  NarrowTensor() = default;
  NarrowTensor(const GuardedTensor& like, DataType type, Flush flush);

  ConstTensor input() const { return {buffer_.data(), shape_, stride_, type_}; }
  Tensor output() const { return {buffer_.data(), shape_, stride_, type_}; }
  /// Stores the elements of `wide`, rounded.
  void copy(const GuardedTensor& wide) const;
  void poison_all() const;
  /// Elements in logical order, widened.
  std::vector<float> elements() const;
  ::testing::AssertionResult gaps_untouched() const;

 private:
  std::uint16_t* data() const { return reinterpret_cast<std::uint16_t*>(buffer_.data()); }
  Shape shape_{};
  Shape stride_{};
  DataType type_ = DataType::bf16;
  GuardedBuffer buffer_;
};
/// A value stored as `type` and read back.
float rounded(DataType type, float x);
/// Whether `got`, read from a tensor of `type`, are the `exact` numbers, each rounded once, bit for bit.
::testing::AssertionResult are_rounded_once(std::span<const float> got, std::span<const float> exact,
                                            DataType type);

/// [batch, heads, seq] log-sum-exp with gaps, between guard pages.
class GuardedLse {
 public:
  enum class Layout {
    none,
    contiguous,
    defaulted,
    bsh,
    padded
  };  ///< default: contiguous, marked by strides of 0
  GuardedLse() = default;
  GuardedLse(std::int64_t batch, std::int64_t heads, std::int64_t seq, Layout layout, Flush flush);

  LseView view() const;
  void poison_all() const { tensor_.poison_all(); }
  std::vector<float> elements() const { return tensor_.elements(); }
  ::testing::AssertionResult gaps_untouched() const { return tensor_.gaps_untouched(); }
  ::testing::AssertionResult all_untouched() const { return tensor_.all_untouched(); }

 private:
  Layout layout_ = Layout::none;
  GuardedTensor tensor_;  ///< [batch, heads, seq, 1]
};
const char* to_string(GuardedLse::Layout layout);

}  // namespace kumiko::test
