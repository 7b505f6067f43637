// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/avx2.h"
#include "kernels/store/vector.h"

namespace kumiko::kernels {

KUMIKO_STORE_KERNELS(store_f32_avx2, Avx2, float)
KUMIKO_STORE_KERNELS(store_bf16_avx2, Avx2, Bf16)
KUMIKO_STORE_KERNELS(store_f16_avx2, Avx2, F16)

}  // namespace kumiko::kernels
