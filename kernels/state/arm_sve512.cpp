// SPDX-License-Identifier: Apache-2.0
#include "kernels/simd/sve512.h"
#include "kernels/state/vector.h"

namespace kumiko::kernels {

void state_f32_sve512_merge_tile(const MergeTileArgs& args) noexcept {
  merge_tile<Sve512>(args);
}
void state_f32_sve512_merge_row(const MergeRowArgs& args) noexcept {
  merge_row<Sve512>(args);
}

}  // namespace kumiko::kernels
