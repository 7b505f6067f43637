// SPDX-License-Identifier: Apache-2.0
// The spec of gemm.h's product f16 in plain C++; its chains are those of panels_reference.cpp.
#include "kernels/gemm/half.h"

KUMIKO_HALF_GEMM(gemm_f16_4x8_reference, panel_f16_4x8_reference, 4, 8)
