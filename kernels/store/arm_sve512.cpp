// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/sve512.h"
#include "kernels/store/vector.h"

namespace kumiko::kernels {

KUMIKO_STORE_KERNELS(store_f32_sve512, Sve512, float)
KUMIKO_STORE_KERNELS(store_bf16_sve512, Sve512, Bf16)
KUMIKO_STORE_KERNELS(store_f16_sve512, Sve512, F16)

}  // namespace kumiko::kernels
