// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

KUMIKO_PACK_KERNELS(pack_f32_neon, Neon, float)
KUMIKO_PACK_KERNELS(pack_bf16_neon, Neon, Bf16)
KUMIKO_PACK_KERNELS(pack_f16_neon, Neon, F16)

}  // namespace kumiko::kernels
