// SPDX-License-Identifier: Apache-2.0
// The memory of a bias's gradient, in every way of sharing its elements.
#pragma once

#include <cstdint>
#include <ostream>
#include <vector>

#include "runtime/attention.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/random.h"
#include "tests/support/tensor.h"

namespace kumiko::test {

/// Which dimensions of a dbias have elements of their own, how they lie, and their type.
struct Sharing {
  bool own[4] = {true, true, true, true};
  bool transposed = false, has_gaps = false;
  DataType type = DataType::f32;
};
std::ostream& operator<<(std::ostream& os, const Sharing& s);
Sharing draw_sharing(Random& random);

/// A dbias between guard pages.
class BiasGradient {
 public:
  BiasGradient(const Shape& shape, const Sharing& sharing, Flush flush);

  Tensor view() const { return {buffer_.data(), shape_, stride_, type_}; }
  const Shape& own() const { return own_; }
  std::int64_t count() const { return own_[0] * own_[1] * own_[2] * own_[3]; }
  void poison() const;
  /// Those of each distinct element, in the order of the dimensions. A failure if anything else was written.
  std::vector<float> elements() const;

 private:
  std::int64_t bytes() const;
  Shape shape_, own_, stride_{};
  DataType type_;
  GuardedBuffer buffer_;
};

}  // namespace kumiko::test
