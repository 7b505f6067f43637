// SPDX-License-Identifier: Apache-2.0
#include "kernels/key_tiles/vector.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {

KUMIKO_KEY_TILES_KERNELS(key_tiles_f32_avx2, Avx2, Avx2, float)
KUMIKO_KEY_TILES_KERNELS(key_tiles_bf16_avx2, Avx2, Avx2, Bf16)
KUMIKO_KEY_TILES_KERNELS(key_tiles_f16_avx2, Avx2, Avx2, F16)

}  // namespace kumiko::kernels
