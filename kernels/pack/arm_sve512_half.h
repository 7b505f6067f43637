// SPDX-License-Identifier: Apache-2.0
// Keys of pack.h's product f16, for panels and for decode.
#pragma once

#include "kernels/simd/sve512_half.h"

namespace kumiko::kernels {
namespace {

/// e of pack.h.
inline int half_key_exponent(const F16* key, std::int64_t dim) {
  using H = Sve512Half;
  H::Bits most = svdup_u16(0);
  for (std::int64_t d = 0; d < dim; d += H::kLanes) {
    const H::Bits x = H::magnitude(H::load_bits(key + d, dim - d));
    most = svmax_u16_m(svcmplt_n_u16(H::all(), x, 0x7c00), most, x);
  }
  const int largest = svmaxv_u16(H::all(), most);
  return largest < 0x0400 ? 0 : (largest >> 10) - 15;
}
inline float half_key_range(int exponent) {
  return __builtin_bit_cast(float, static_cast<std::uint32_t>(exponent + 127) << 23);
}

/// Transposes up to 32 dims of up to 16 keys, times 2^-exponent: to[d][key], columns `pitch` apart, of which
/// min(pitch, 16) elements are written; keys past `rows` are 0.
inline void turn_keys(const F16* keys, std::int64_t stride, std::int64_t rows, const int* exponent,
                      std::int64_t dims, F16* to, std::int64_t pitch) {
  using H = Sve512Half;
  H::Bits x[H::kTurned];
  for (std::int64_t i = 0; i < H::kTurned; ++i) {
    x[i] = svdup_u16(0);
    if (i < rows)
      x[i] = svreinterpret_u16_f16(
          H::scale(H::load(keys + i * stride, dims), svdup_s16(static_cast<std::int16_t>(-exponent[i]))));
  }
  H::transpose(x);
  H::store_columns(to, pitch, pitch < H::kTurned ? pitch : H::kTurned, dims, x);
}

}  // namespace
}  // namespace kumiko::kernels
