#include "kernels/simd/avx512.h"
#include "kernels/state/vector.h"

namespace kumiko::kernels {

void state_f32_avx512_merge_tile(const MergeTileArgs& args) noexcept {
  merge_tile<Avx512>(args);
}
void state_f32_avx512_store_tile(const StoreTileArgs& args) noexcept {
  store_tile<Avx512>(args);
}
void state_f32_avx512_merge_row(const MergeRowArgs& args) noexcept {
  merge_row<Avx512>(args);
}
void state_f32_avx512_store_row(const float* o, float inverse, std::int64_t dim, float* out) noexcept {
  store_row<Avx512>(o, inverse, dim, out);
}

}  // namespace kumiko::kernels
