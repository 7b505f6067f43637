// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

// 4 rows x 4 vectors of values = 16 sums, 4 weights, 4 values and a probability of 32 registers.
KUMIKO_DECODE_KERNELS(decode_f32_neon, Neon, float, 4, 4, 8)
KUMIKO_DECODE_KERNELS(decode_bf16_neon, Neon, Bf16, 4, 4, 8)
KUMIKO_DECODE_KERNELS(decode_f16_neon, Neon, F16, 4, 4, 8)

}  // namespace kumiko::kernels
