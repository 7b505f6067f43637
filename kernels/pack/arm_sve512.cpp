#include "kernels/pack/vector.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {

KUMIKO_PACK_KERNELS(pack_f32_sve512, Sve512, float)
KUMIKO_PACK_KERNELS(pack_bf16_sve512, Sve512, Bf16)
KUMIKO_PACK_KERNELS(pack_f16_sve512, Sve512, F16)

}  // namespace kumiko::kernels
