// SPDX-License-Identifier: Apache-2.0
// A case whose queries and keys are int8 with scales.
#pragma once

#include <string>
#include <vector>

#include "tests/runtime/case.h"
#include "tests/support/guarded_buffer.h"

namespace kumiko::test {

/// The elements of a GuardedTensor as int8 between guard pages, with its shape and strides, and a scale for
/// each row. Scales have 8 bits, so that f32 holds each product of an integer and its scale.
class Int8Rows {
 public:
  Int8Rows() = default;
  Int8Rows(const GuardedTensor& like, Layout layout, Flush flush);

  ConstTensor input() const { return {buffer_.data(), shape_, stride_, DataType::i8}; }
  ScaleView scale() const;
  /// Rounds the rows of `wide` to these and back. Rows with an element that is not finite get a scale that is
  /// not.
  void quantize(const GuardedTensor& wide) const;
  std::int8_t& at(std::int64_t b, std::int64_t h, std::int64_t s, std::int64_t d) const {
    return reinterpret_cast<std::int8_t*>(
        buffer_.data())[b * stride_[0] + h * stride_[1] + s * stride_[2] + d * stride_[3]];
  }
  float& scale_at(std::int64_t b, std::int64_t h, std::int64_t s) const { return scales_.at(b, h, s, 0); }

 private:
  Shape shape_{}, stride_{};
  GuardedBuffer buffer_;
  GuardedTensor scales_;
};

class Int8Problem {
 public:
  explicit Int8Problem(const Case& c);

  AttentionArgs args(Pipeline pipeline = Pipeline::automatic) const;
  /// With a status that is ok, and nothing written beside the outputs.
  Outcome run(const Context& context, Pipeline pipeline = Pipeline::automatic) const;

  Problem wide;  ///< The same values.
  Int8Rows q, k;
};

}  // namespace kumiko::test
