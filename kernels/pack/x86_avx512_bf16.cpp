// SPDX-License-Identifier: Apache-2.0
#include "kernels/pack/vector.h"
#include "kernels/simd/avx512_bf16.h"

namespace kumiko::kernels {

void pack_bf16_avx512_bf16_query(const PackQueryArgs& args) noexcept {
  pack_query<Avx512Bf16, Bf16>(args);
}
void pack_bf16_avx512_bf16_key(const PackKeyArgs& args) noexcept {
  pack_key<Avx512Bf16, Bf16>(args);
}
bool pack_bf16_avx512_bf16_value(const PackValueArgs& args) noexcept {
  return pack_value<Avx512Bf16, Bf16>(args);
}

}  // namespace kumiko::kernels
