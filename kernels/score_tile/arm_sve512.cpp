// SPDX-License-Identifier: Apache-2.0
#include "kernels/score_tile/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

KUMIKO_SCORE_TILE_KERNELS(score_tile_f32_sve512, Sve512)

}  // namespace kumiko::kernels
