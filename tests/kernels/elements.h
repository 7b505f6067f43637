// SPDX-License-Identifier: Apache-2.0
// Operands of any element type between guard pages.
#pragma once

#include <bit>
#include <cmath>
#include <limits>

#include "kernels/element.h"
#include "tests/kernels/rows.h"

namespace kumiko::test {

/// n elements of a type chosen at run time. Reads and writes as f32 (rounded as kernels/element.h rounds).
class ElementOperand {
 public:
  ElementOperand(kernels::Element element, std::size_t n, Place place)
      : element_(element),
        n_(n),
        wide_(element == kernels::Element::f32 ? n : 0, place),
        narrow_(element == kernels::Element::f32 ? 0 : n, place) {}

  void* data() const {
    return element_ == kernels::Element::f32 ? static_cast<void*>(wide_.data()) : narrow_.data();
  }
  std::size_t size() const { return n_; }
  float get(std::size_t i) const {
    return kernels::load_element(element_, data(), static_cast<std::int64_t>(i));
  }
  void set(std::size_t i, float x) const {
    if (element_ == kernels::Element::f32) {
      wide_[i] = x;
    } else if (element_ == kernels::Element::bf16) {
      kernels::Bf16 narrow;
      kernels::from_float(x, &narrow);
      narrow_[i] = narrow.bits;
    } else {
      kernels::F16 narrow;
      kernels::from_float(x, &narrow);
      narrow_[i] = narrow.bits;
    }
  }
  bool intact() const { return wide_.intact() && narrow_.intact(); }

 private:
  kernels::Element element_;
  std::size_t n_;
  Operand<float> wide_;
  Operand<std::uint16_t> narrow_;
};

/// A value stored as `element` and read back.
inline float rounded(kernels::Element element, float x) {
  if (element == kernels::Element::f32) return x;
  kernels::Bf16 bf16;
  kernels::F16 f16;
  kernels::from_float(x, &bf16);
  kernels::from_float(x, &f16);
  return element == kernels::Element::bf16 ? kernels::load_element(element, &bf16, 0)
                                           : kernels::load_element(element, &f16, 0);
}

}  // namespace kumiko::test
