// SPDX-License-Identifier: Apache-2.0
#include "kernels/int8_scores/pack.h"

namespace kumiko::kernels {
KUMIKO_INT8_PANELS(int8_scores_avx512_vnni, bytes_plus_128, bytes, 8, true)
KUMIKO_INT8_PANELS(int8_scores_avx512, pairs, pairs, 8, false)
}  // namespace kumiko::kernels
