// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

KUMIKO_GRADIENT_KERNELS(gradient_f32_neon, Neon)

}  // namespace kumiko::kernels
