// SPDX-License-Identifier: Apache-2.0
#include "kernels/score/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

KUMIKO_SCORE_KERNELS(score_f32_sve512, Sve512)

}  // namespace kumiko::kernels
