// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

// 4 rows x 4 vectors of values = 16 sums, 4 weights, 4 values and a probability of 32 registers.
void decode_f32_neon(const DecodeBlockArgs& args) noexcept {
  decode_block<Neon, float, 4, 4>(args);
}
void decode_bf16_neon(const DecodeBlockArgs& args) noexcept {
  decode_block<Neon, Bf16, 4, 4>(args);
}
void decode_f16_neon(const DecodeBlockArgs& args) noexcept {
  decode_block<Neon, F16, 4, 4>(args);
}

}  // namespace kumiko::kernels
