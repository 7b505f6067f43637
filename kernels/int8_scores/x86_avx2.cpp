// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/pack.h"

namespace kumiko::kernels {
KUMIKO_INT8_PANELS(int8_scores_avx2_vnni, bytes_plus_128, bytes, 4, true)
KUMIKO_INT8_PANELS(int8_scores_avx2, pairs, pairs, 4, false)
}  // namespace kumiko::kernels
