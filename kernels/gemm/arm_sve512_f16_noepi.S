// SPDX-License-Identifier: Apache-2.0
// f16 tiles of panels.h whose C is f16 too, for SVE at 512 bits (A64FX): no conversion at the end ("noepi"), and all roundings of a long
// sum are in f16 (docs/numerics.md says what that costs).
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve+fp16
#define STEP_BYTES 2
#define C_BITS 16
#include "kernels/gemm/arm_sve512_panel.inc"

.macro mac acc, b, a
  fmla z\acc\().h, p0/m, z\b\().h, z\a\().h
.endm

.text
tile_shape 12, 2, 6, 2, 2, 0
panel_kernel panel_f16_12x2_noepi_sve512, 2, 0
panel_kernel panel_f16_12x2_noepi4_sve512, 4, 0
panel_kernel panel_f16_12x2_noepi_swp_sve512, 4, 1
.set tile_prefetch, 4096
panel_kernel panel_f16_12x2_noepi4_prfm_sve512, 4, 0
.section .note.GNU-stack, "", %progbits
#endif
