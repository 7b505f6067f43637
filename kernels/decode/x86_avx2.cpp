// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/vector.h"
#include "kernels/decode/x86_avx2_scores.h"
#include "kernels/decode/x86_avx2_transpose.h"
#include "kernels/decode/x86_avx2_values.h"

namespace kumiko::kernels {

// Where x86_avx2_values.h does not apply: 2 rows x 4 vectors of values = 8 sums + 2 weights of 16 registers.
KUMIKO_DECODE_KERNELS(decode_f32_avx2, Avx2, float, 2, 4, 8)
KUMIKO_DECODE_KERNELS(decode_bf16_avx2, Avx2, Bf16, 2, 4, 8)
KUMIKO_DECODE_KERNELS(decode_f16_avx2, Avx2, F16, 2, 4, 8)

}  // namespace kumiko::kernels
