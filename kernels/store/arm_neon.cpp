// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/neon.h"
#include "kernels/store/vector.h"

namespace kumiko::kernels {

KUMIKO_STORE_KERNELS(store_f32_neon, Neon, float)
KUMIKO_STORE_KERNELS(store_bf16_neon, Neon, Bf16)
KUMIKO_STORE_KERNELS(store_f16_neon, Neon, F16)

}  // namespace kumiko::kernels
