#include "kernels/pack/vector.h"
#include "kernels/simd/avx2.h"

namespace kumiko::kernels {

void pack_f32_avx2_query(const PackQueryArgs& args) noexcept {
  pack_query<Avx2>(args);
}
void pack_f32_avx2_key(const PackKeyArgs& args) noexcept {
  pack_key<Avx2>(args);
}
bool pack_f32_avx2_value(const PackValueArgs& args) noexcept {
  return pack_value<Avx2>(args);
}

}  // namespace kumiko::kernels
