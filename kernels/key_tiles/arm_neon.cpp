// SPDX-License-Identifier: Apache-2.0
#include "kernels/key_tiles/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

KUMIKO_KEY_TILES_KERNELS(key_tiles_f32_neon, Neon, Neon, float)
KUMIKO_KEY_TILES_KERNELS(key_tiles_bf16_neon, Neon, Neon, Bf16)
KUMIKO_KEY_TILES_KERNELS(key_tiles_f16_neon, Neon, Neon, F16)

}  // namespace kumiko::kernels
