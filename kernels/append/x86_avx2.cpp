// SPDX-License-Identifier: Apache-2.0
#include "kernels/append/vector.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {

KUMIKO_APPEND_KERNELS(avx2, Avx2)

}  // namespace kumiko::kernels
