// f16 tiles of panels.h whose C is f16 too, for SVE at 512 bits (A64FX): no conversion at the end ("noepi"), and all of a long sum's roundings
// in f16 (docs/numerics.md says what that costs).
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve+fp16
#include "kernels/gemm/arm_sve512_panel.inc"

.macro mac acc, b, a
  fmla z\acc\().h, p0/m, z\b\().h, z\a\().h
.endm
.macro broadcast reg, row
  ld1rh {z\reg\().h}, p0/z, [x10, 2 * (\row)]
.endm
.macro load_vector reg, index
  ld1h {z\reg\().h}, p0/z, [x11, \index - 8, mul vl]
.endm
.macro while_one mask, column
  mov x9, 32 * \column
  whilelt p\mask\().h, x9, x5
.endm
.macro load_c_one n, mask, column
  ld1h {z\n\().h}, p\mask\()/z, [x2, \column, mul vl]
.endm
.macro store_c_one n, mask, column
  st1h {z\n\().h}, p\mask, [x2, \column, mul vl]
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
