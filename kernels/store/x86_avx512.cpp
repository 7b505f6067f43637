// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/avx512.h"
#include "kernels/store/vector.h"

namespace kumiko::kernels {

KUMIKO_STORE_KERNELS(store_f32_avx512, Avx512, float)
KUMIKO_STORE_KERNELS(store_bf16_avx512, Avx512, Bf16)
KUMIKO_STORE_KERNELS(store_f16_avx512, Avx512, F16)

}  // namespace kumiko::kernels
