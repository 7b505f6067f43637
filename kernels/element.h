// SPDX-License-Identifier: Apache-2.0
// Element types of tensors in memory. In products of f32, 16-bit elements are widened as they are loaded
// (exact) and results are rounded to nearest even as they are stored.
#pragma once

#include <bit>
#include <cstdint>

namespace kumiko::kernels {

/// i8 is for queries and keys with scales only (int8_scores.h).
enum class Element : std::uint8_t { f32 = 0, bf16 = 1, f16 = 2, i8 = 3 };
/// The floating-point types, which widen to f32 exactly.
inline constexpr Element kElements[] = {Element::f32, Element::bf16, Element::f16};

/// Storage of the upper half of an f32.
struct Bf16 {
  std::uint16_t bits;
};
/// Storage of an IEEE 754 binary16.
struct F16 {
  std::uint16_t bits;
};

/// A boolean: false is 0.
struct Bool8 {
  std::uint8_t bits;
};

namespace {  // as in the vector types' headers: one copy per ISA file

constexpr std::int64_t bytes_of(Element element) {
  return element == Element::f32 ? 4 : element == Element::i8 ? 1 : 2;
}
constexpr const char* element_name(Element element) {
  return element == Element::f32    ? "f32"
         : element == Element::bf16 ? "bf16"
         : element == Element::f16  ? "f16"
                                    : "i8";
}

inline float to_float(float x) {
  return x;
}
inline float to_float(Bf16 x) {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16);
}
/// Signalling NaNs become quiet, as with the conversion instructions.
inline float to_float(F16 x) {
  const std::uint32_t sign = static_cast<std::uint32_t>(x.bits & 0x8000u) << 16;
  const std::uint32_t magnitude = x.bits & 0x7fffu;
  if (magnitude < 0x0400u) {  // subnormal: a multiple of 2^-24
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | sign);
  }
  std::uint32_t bits = (magnitude << 13) + (112u << 23);
  if (magnitude >= 0x7c00u) bits = 0x7f800000u | (magnitude & 0x03ffu) << 13;
  if (magnitude > 0x7c00u) bits |= 0x00400000u;
  return std::bit_cast<float>(bits | sign);
}

inline float to_float(Bool8 x) {
  return static_cast<float>(x.bits);
}

/// The only NaN in results: quiet, positive, no payload. It is the same NaN after conversion to bf16 or f16.
inline constexpr std::uint32_t kCanonicalNan = 0x7fc00000u;
/// x, or the canonical NaN for any NaN: which NaN an operation gives depends on the order of its operands.
inline float canonical(float x) {
  return x == x ? x : std::bit_cast<float>(kCanonicalNan);
}

inline void from_float(float x, float* to) {
  *to = x;
}
inline void from_float(float x, Bf16* to) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  to->bits =
      static_cast<std::uint16_t>((nan ? bits | 0x00400000u : bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline void from_float(float x, F16* to) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x), magnitude = bits & 0x7fffffffu;
  std::uint32_t half = 0;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x03ffu);
  } else if (magnitude >= 0x47800000u) {  // 2^16 and more; values that round up to 2^16 take the next branch
    half = 0x7c00u;
  } else if (magnitude >= 0x38800000u) {  // 2^-14: normal
    half = (magnitude - (112u << 23) + 0x0fffu + (magnitude >> 13 & 1u)) >> 13;
  } else {  // 0.5 has an ulp of 2^-24: the sum rounds to a multiple of the smallest subnormal
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  }
  to->bits = static_cast<std::uint16_t>(half | (bits >> 16 & 0x8000u));
}

inline const void* element_at(Element element, const void* data, std::int64_t index) {
  return data ? static_cast<const char*>(data) + index * bytes_of(element) : data;
}
inline void* element_at(Element element, void* data, std::int64_t index) {
  return data ? static_cast<char*>(data) + index * bytes_of(element) : data;
}
inline float load_element(Element element, const void* data, std::int64_t index) {
  if (element == Element::f32) return static_cast<const float*>(data)[index];
  if (element == Element::bf16) return to_float(static_cast<const Bf16*>(data)[index]);
  return to_float(static_cast<const F16*>(data)[index]);
}

}  // namespace
}  // namespace kumiko::kernels
