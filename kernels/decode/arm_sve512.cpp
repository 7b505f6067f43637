// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/arm_sve512_scores.h"
#include "kernels/decode/arm_sve512_values.h"
#include "kernels/decode/vector.h"

namespace kumiko::kernels {

// 4 rows x 4 vectors of values = 16 sums, 4 weights, 4 values and a probability of 32 registers, as on
// Advanced SIMD.
KUMIKO_DECODE_KERNELS(decode_f32_sve512, Sve512, float, 4, 4, 8)
KUMIKO_DECODE_KERNELS(decode_bf16_sve512, Sve512, Bf16, 4, 4, 8)
KUMIKO_DECODE_KERNELS(decode_f16_sve512, Sve512, F16, 4, 4, 8)

}  // namespace kumiko::kernels
