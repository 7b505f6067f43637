// SPDX-License-Identifier: Apache-2.0
// f32 tiles of panels.h for SVE at 512 bits (A64FX).
//
// All but 8x2 and 10x2 have 22 to 24 accumulators and are bound by their FMLAs: 12 cycles a step. They differ in how many of the 32
// registers are left for operands and in how far ahead these are loaded.
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve
#define STEP_BYTES 4
#define C_BITS 32
#include "kernels/gemm/arm_sve512_panel.inc"

.macro mac acc, b, a
  fmla z\acc\().s, p0/m, z\b\().s, z\a\().s
.endm
.macro load_vector reg, index
  ld1w {z\reg\().s}, p0/z, [x11, \index - 8, mul vl]
.endm

.text
tile_shape 8, 3, 5, 3, 4, 0
panel_kernel panel_f32_8x3_sve512, 1, 1
panel_kernel panel_f32_8x3_unroll4_sve512, 4, 1
tile_shape 8, 2, 8, 4, 4, 0     // the rest of a row after tiles of 48: 16 chains take 9 cycles a step, the latency, not 8
panel_kernel panel_f32_8x2_sve512, 4, 1
tile_shape 6, 4, 4, 4, 4, 0
panel_kernel panel_f32_6x4_bcast_sve512, 2, 0
tile_shape 10, 2, 8, 4, 4, 0    // two sets of B
panel_kernel panel_f32_10x2_sve512, 4, 1
tile_shape 11, 2, 8, 2, 4, 0
panel_kernel panel_f32_11x2_sve512, 4, 1
tile_shape 12, 2, 6, 2, 4, 0
panel_kernel panel_f32_12x2_sve512, 2, 0
panel_kernel panel_f32_12x2_swp_sve512, 2, 1
.section .note.GNU-stack, "", %progbits
#endif
