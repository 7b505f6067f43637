#include "kernels/pack/vector.h"
#include "kernels/simd/avx512.h"

namespace kumiko::kernels {

void pack_f32_avx512_query(const PackQueryArgs& args) noexcept {
  pack_query<Avx512>(args);
}
void pack_f32_avx512_key(const PackKeyArgs& args) noexcept {
  pack_key<Avx512>(args);
}
bool pack_f32_avx512_value(const PackValueArgs& args) noexcept {
  return pack_value<Avx512>(args);
}

}  // namespace kumiko::kernels
