// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

// 4 rows x 4 vectors of values = 16 sums, 4 weights, 4 values and a probability of 32 registers, as on
// Advanced SIMD.
void decode_f32_sve512(const DecodeBlockArgs& args) noexcept {
  decode_block<Sve512, float, 4, 4>(args);
}
void decode_bf16_sve512(const DecodeBlockArgs& args) noexcept {
  decode_block<Sve512, Bf16, 4, 4>(args);
}
void decode_f16_sve512(const DecodeBlockArgs& args) noexcept {
  decode_block<Sve512, F16, 4, 4>(args);
}

}  // namespace kumiko::kernels
