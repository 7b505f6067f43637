// SPDX-License-Identifier: Apache-2.0
#include "kernels/key_tiles/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

KUMIKO_KEY_TILES_KERNELS(key_tiles_f32_sve512, Sve512, Sve512, float)
KUMIKO_KEY_TILES_KERNELS(key_tiles_bf16_sve512, Sve512, Sve512, Bf16)
KUMIKO_KEY_TILES_KERNELS(key_tiles_f16_sve512, Sve512, Sve512, F16)

}  // namespace kumiko::kernels
