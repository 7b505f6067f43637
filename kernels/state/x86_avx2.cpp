// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/avx2.h"
#include "kernels/state/vector.h"

namespace kumiko::kernels {

void state_f32_avx2_merge_tile(const MergeTileArgs& args) noexcept {
  merge_tile<Avx2>(args);
}
void state_f32_avx2_merge_row(const MergeRowArgs& args) noexcept {
  merge_row<Avx2>(args);
}

}  // namespace kumiko::kernels
