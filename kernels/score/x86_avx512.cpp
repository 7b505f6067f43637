// SPDX-License-Identifier: Apache-2.0
#include "kernels/score/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {

KUMIKO_SCORE_KERNELS(score_f32_avx512, Avx512)

}  // namespace kumiko::kernels
