// SPDX-License-Identifier: Apache-2.0
#include "kernels/key_tiles/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {

KUMIKO_KEY_TILES_KERNELS(key_tiles_f32_avx512, Avx512, Avx512, float)
KUMIKO_KEY_TILES_KERNELS(key_tiles_bf16_avx512, Avx512, Avx512, Bf16)
KUMIKO_KEY_TILES_KERNELS(key_tiles_f16_avx512, Avx512, Avx512, F16)

}  // namespace kumiko::kernels
