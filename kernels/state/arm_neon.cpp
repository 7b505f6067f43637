// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/neon.h"
#include "kernels/state/vector.h"

namespace kumiko::kernels {

void state_f32_neon_merge_tile(const MergeTileArgs& args) noexcept {
  merge_tile<Neon>(args);
}
void state_f32_neon_merge_row(const MergeRowArgs& args) noexcept {
  merge_row<Neon>(args);
}

}  // namespace kumiko::kernels
