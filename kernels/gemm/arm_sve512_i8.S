// SPDX-License-Identifier: Apache-2.0
// int8 tile of panels.h for SVE at 512 bits (A64FX): SDOT, four products of k in one multiply-add, sums in int32. 12 cycles a step of four.
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve
#include "kernels/gemm/arm_sve512_panel.inc"

.macro mac acc, b, a
  sdot z\acc\().s, z\b\().b, z\a\().b
.endm
.macro load_vector reg, index
  ld1b {z\reg\().b}, p0/z, [x11, \index - 8, mul vl]
.endm

.text
tile_shape 6, 4, 4, 4, 4, 0
.set tile_group, 4
panel_kernel panel_i8_6x4_sdot_sve512, 2, 1
.section .note.GNU-stack, "", %progbits
#endif
