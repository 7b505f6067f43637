// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/vector.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {

KUMIKO_GRADIENT_KERNELS(gradient_f32_avx2, Avx2)

}  // namespace kumiko::kernels
