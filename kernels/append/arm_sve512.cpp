// SPDX-License-Identifier: Apache-2.0
#include "kernels/append/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

KUMIKO_APPEND_KERNELS(sve512, Sve512)

}  // namespace kumiko::kernels
