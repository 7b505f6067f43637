// SPDX-License-Identifier: Apache-2.0
#include "kernels/append/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {

KUMIKO_APPEND_KERNELS(avx512, Avx512)

}  // namespace kumiko::kernels
