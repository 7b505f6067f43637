// SPDX-License-Identifier: Apache-2.0
// A line is a vector of pairs as the products take them.
#include "kernels/key_tiles/vector.h"
#include "kernels/simd/avx512_bf16.h"

namespace kumiko::kernels {

KUMIKO_KEY_TILES_KERNELS(key_tiles_bf16_avx512_bf16, Avx512Bf16, Avx512, Bf16)

}  // namespace kumiko::kernels
