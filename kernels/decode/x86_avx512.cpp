// SPDX-License-Identifier: Apache-2.0
#include "kernels/decode/vector.h"
#include "kernels/decode/x86_avx512_transpose.h"
#include "kernels/decode/x86_avx512_values.h"

namespace kumiko::kernels {

// 4 rows x 4 vectors of values = 16 sums + 4 weights of 32 registers.
KUMIKO_DECODE_KERNELS(decode_f32_avx512, Avx512, float, 4, 4, 8)
KUMIKO_DECODE_KERNELS(decode_bf16_avx512, Avx512, Bf16, 4, 4, 8)
KUMIKO_DECODE_KERNELS(decode_f16_avx512, Avx512, F16, 4, 4, 8)

}  // namespace kumiko::kernels
