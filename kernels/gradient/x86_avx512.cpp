// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {

KUMIKO_GRADIENT_KERNELS(gradient_f32_avx512, Avx512)

}  // namespace kumiko::kernels
