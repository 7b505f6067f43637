// SPDX-License-Identifier: Apache-2.0
#include "kernels/append/vector.h"
#include "kernels/simd/neon.h"

namespace kumiko::kernels {

KUMIKO_APPEND_KERNELS(neon, Neon)

}  // namespace kumiko::kernels
