// SPDX-License-Identifier: Apache-2.0
#include "kernels/score/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

KUMIKO_SCORE_KERNELS(score_f32_neon, Neon)

}  // namespace kumiko::kernels
