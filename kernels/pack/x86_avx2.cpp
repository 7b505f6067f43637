// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/vector.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {

KUMIKO_PACK_KERNELS(pack_f32_avx2, Avx2, float)
KUMIKO_PACK_KERNELS(pack_bf16_avx2, Avx2, Bf16)
KUMIKO_PACK_KERNELS(pack_f16_avx2, Avx2, F16)

}  // namespace kumiko::kernels
