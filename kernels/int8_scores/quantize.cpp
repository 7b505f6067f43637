// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/quantize.h"

#include <bit>
#include <cstring>

namespace kumiko::kernels {
namespace {

constexpr float kMost = 127.0f;

/// The bits of the largest magnitude. Bits are ordered as magnitudes are, with those of NaN above those of
/// infinity.
template <class T>
std::uint32_t largest_bits(const T* x, std::int64_t dim) {
  std::uint32_t most = 0;
  for (std::int64_t d = 0; d < dim; ++d) {
    const std::uint32_t bits = std::bit_cast<std::uint32_t>(to_float(x[d])) & 0x7fffffffu;
    most = bits > most ? bits : most;
  }
  return most;
}

template <class T>
void quantize(const T* x, std::int64_t dim, std::int8_t* out, float* scale) {
  constexpr std::uint32_t kInfinity = 0x7f800000u;
  const std::uint32_t bits = largest_bits(x, dim);
  const float most = std::bit_cast<float>(bits);
  if (bits >= kInfinity || most < kLeastInt8Row) {
    std::memset(out, 0, static_cast<std::size_t>(dim));
    *scale = bits >= kInfinity ? std::bit_cast<float>(kCanonicalNan) : 0.0f;
    return;
  }
  *scale = most / kMost;
  const float inverse = kMost / most;
  // The last place of a sum of 1.5 * 2^23 and a number below 2^22 is 1: the addition rounds to an integer.
  constexpr float kRound = 0x1.8p23f;
  for (std::int64_t d = 0; d < dim; ++d) {
    const float rounded = to_float(x[d]) * inverse + kRound;
    out[d] = static_cast<std::int8_t>(std::bit_cast<std::uint32_t>(rounded));
  }
}

}  // namespace

void quantize_row(Element element, const void* x, std::int64_t dim, std::int8_t* out, float* scale) noexcept {
  if (element == Element::f32) return quantize(static_cast<const float*>(x), dim, out, scale);
  if (element == Element::bf16) return quantize(static_cast<const Bf16*>(x), dim, out, scale);
  quantize(static_cast<const F16*>(x), dim, out, scale);
}

}  // namespace kumiko::kernels
