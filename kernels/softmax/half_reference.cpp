// SPDX-License-Identifier: Apache-2.0
// The spec of softmax.h's product f16 in plain C++.
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels/simd/scalar.h"
#include "kernels/softmax/half.h"

namespace kumiko::kernels {
namespace {

/// Stores P, whose f32 values are f16 numbers, as f16 over the first rows of S^T. From low to high addresses:
/// no element is overwritten before it is read.
void narrow_weights(const SoftmaxArgs& args) {
  for (std::int64_t i = 0; i < args.kv * args.nr; ++i) {
    F16 p;
    from_float(args.s[i], &p);
    std::memcpy(reinterpret_cast<char*>(args.s) + i * 2, &p, sizeof p);
  }
}

}  // namespace

void softmax_f16_reference_mask_scores(const MaskArgs& args) noexcept {
  find_softmax(Isa::reference, Element::f32)->mask_scores(args);
}

void softmax_f16_reference_probabilities(const SoftmaxArgs& args) noexcept {
  for (std::int64_t n = 0; n < args.nr; ++n) {
    const float b = std::ceil(args.block_max[n]), shift = b == kMinusInfinity ? 0.0f : b;
    std::uint32_t sum = 0;
    bool has_nan = false;
    for (std::int64_t j = 0; j < args.kv; ++j) {
      float& s = args.s[j * args.nr + n];
      const float p = std::ldexp(exp2_scalar(s - shift), kHalfExponent);
      if (p == p)
        sum += std::bit_cast<std::uint32_t>(p + kHalfSumShift) - kHalfSumBits;
      else
        has_nan = true;
      s = half_weight(p);
    }
    const float reference = b - half_headroom(sum), m = reference > args.m[n] ? reference : args.m[n];
    const float m_shift = m == kMinusInfinity ? 0.0f : m;
    args.alpha[n] = exp2_scalar(args.m[n] - m_shift);
    args.m[n] = m;
    const float exponent = b - m_shift, of_sum = exp2_scalar(exponent) * std::ldexp(1.0f, -kHalfSumPlaces);
    const float l = std::fma(static_cast<float>(sum), of_sum, args.l[n] * args.alpha[n]);
    args.l[n] = has_nan ? std::numeric_limits<float>::quiet_NaN() : l;
    const float places = exponent - kHalfExponent;
    const int by = static_cast<int>(places > kHalfLeastExponent ? places : kHalfLeastExponent);
    for (std::int64_t j = 0; j < args.kv; ++j) {
      float& p = args.s[j * args.nr + n];
      p = half_weight(std::ldexp(p, by));
    }
  }
  narrow_weights(args);
}

void softmax_f16_reference_weights(const SoftmaxArgs& args) noexcept {
  for (std::int64_t n = 0; n < args.nr; ++n) {
    float largest = 0.0f;
    for (std::int64_t j = 0; j < args.kv; ++j) {
      const float x = std::fabs(args.s[j * args.nr + n]);
      if (x < std::numeric_limits<float>::infinity() && x > largest) largest = x;
    }
    int exponent = 0;
    std::frexp(largest, &exponent);
    const float own = largest == 0.0f ? -std::numeric_limits<float>::infinity()
                                      : static_cast<float>(exponent < 125 ? exponent + 1 : 126),
                m = own > args.m[n] ? own : args.m[n],
                shift = m == -std::numeric_limits<float>::infinity() ? 0.0f : m;
    args.alpha[n] = exp2_scalar(args.m[n] - shift);
    args.m[n] = m;
    for (std::int64_t j = 0; j < args.kv; ++j) {
      float& p = args.s[j * args.nr + n];
      p = half_weight(std::ldexp(p, -static_cast<int>(shift)));
    }
  }
  narrow_weights(args);
}

void softmax_f16_reference_exp2(const float* x, float* y, std::int64_t n) noexcept {
  for (std::int64_t i = 0; i < n; ++i) y[i] = exp2_scalar(x[i]);
}

}  // namespace kumiko::kernels
