// SPDX-License-Identifier: Apache-2.0
// The 12x2 tile with the longest loop: panels.inc says why it is the first.
#include "kernels/gemm/half.h"

KUMIKO_HALF_GEMM(gemm_f16_12x64_sve512, panel_f16_12x2_4k_sve512, 12, 64)
