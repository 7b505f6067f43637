// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {

KUMIKO_PACK_KERNELS(pack_f32_avx512, Avx512, float)
KUMIKO_PACK_KERNELS(pack_bf16_avx512, Avx512, Bf16)
KUMIKO_PACK_KERNELS(pack_f16_avx512, Avx512, F16)

}  // namespace kumiko::kernels
