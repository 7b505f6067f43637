// SPDX-License-Identifier: Apache-2.0
#include "kernels/gradient/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

KUMIKO_GRADIENT_KERNELS(gradient_f32_sve512, Sve512)

}  // namespace kumiko::kernels
