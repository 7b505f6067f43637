// SPDX-License-Identifier: Apache-2.0
#include "kernels/score_tile/vector.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {

KUMIKO_SCORE_TILE_KERNELS(score_tile_f32_avx2, Avx2)

}  // namespace kumiko::kernels
