// SPDX-License-Identifier: Apache-2.0
// f32 micro-kernels for SVE at 512 bits (A64FX): MR = 8 broadcasts x NR = 16, 32 or 48 lanes. Contract: gemm.h.
//
// The 8x48 tile: 24 accumulators, 3 vectors of B, 5 registers that take the 8 rows of A in turn. A step of k is 24 FMLAs (12 cycles on two
// pipes) and 11 loads (5.5 cycles). The narrow tiles are for the last queries of a block: 8x16 has 8 chains where two pipes with a latency
// of 9 cycles need 18, so it cannot exceed 0.44 of peak.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/gemm/arm_sve512_tile.inc"
.arch armv8.2-a+sve

.macro mac acc, b, a
  fmla z\acc\().s, p0/m, z\b\().s, z\a\().s
.endm
.macro broadcast reg, row
  ld1rw {z\reg\().s}, p0/z, [x10, 4 * (\row)]
.endm
.macro load_vector reg, index
  ld1w {z\reg\().s}, p0/z, [x11, \index - 8, mul vl]
.endm

// Vectors of C, counted from x2 - 512 bytes; of c_scale and c_max from x9.
.macro load_one n, index
  ld1w {z\n\().s}, p0/z, [x2, \index - 8, mul vl]
.endm
.macro scale_one n, scale
  fmul z\n\().s, z\n\().s, z\scale\().s
.endm
.macro store_one n, index
  st1w {z\n\().s}, p0, [x2, \index - 8, mul vl]
.endm
.macro load_column_one n, index
  ld1w {z\n\().s}, p0/z, [x9, \index, mul vl]
.endm
.macro store_column_one n, index
  st1w {z\n\().s}, p0, [x9, \index, mul vl]
.endm
// The larger number, or the number where the other is a quiet NaN. (FMAXNM takes +0 as larger than -0, which changes no score or sum.)
.macro max_one n, acc
  fmaxnm z\n\().s, p0/m, z\n\().s, z\acc\().s
.endm

// all_of_c what: applies `what` to every accumulator and its place in C; x2 advances by the tile.
.macro all_of_c what
  .set i, 0
  .set index, 0
  add x2, x2, 512
  .rept tile_macs
    .if index == 16
      add x2, x2, 1024
      .set index, 0
    .endif
    \what %i, %index
    .set i, i + 1
    .set index, index + 1
  .endr
  add x2, x2, 64 * index - 512
.endm

// mode 0: init, 1: init_max, 2: accumulate
.macro gemm_kernel name, unroll, mode
begin_function \name
  save_registers
  ptrue p0.s
  ldp x1, x3, [x0]        // A panel and its stride
  ldr x2, [x0, 24]        // C
  ldr x4, [x0, 40]        // panels left
  .if \mode == 1
  ldr x9, [x0, 56]
  .elseif \mode == 2
  ldr x9, [x0, 48]
  .endif
1:
  mov x10, x1
  ldr x11, [x0, 16]       // B
  ldr x8, [x0, 32]        // k
  .if \mode == 2
    mov x5, x2
    .set j, 0
    .rept tile_nv
      load_column_one %(tile_b + j), %j
      .set j, j + 1
    .endr
    all_of_c load_one
    mov x2, x5
    .set i, 0
    .rept tile_macs
      scale_one %i, %(tile_b + i - i / tile_nv * tile_nv)
      .set i, i + 1
    .endr
  .else
    tile_zero
  .endif
  tile_product \name, \unroll
  all_of_c store_one
  .if \mode == 1
    .set j, 0
    .rept tile_nv
      load_column_one %(tile_b + j), %j
      .set j, j + 1
    .endr
    .set i, 0
    .rept tile_macs
      max_one %(tile_b + i - i / tile_nv * tile_nv), %i
      .set i, i + 1
    .endr
    .set j, 0
    .rept tile_nv
      store_column_one %(tile_b + j), %j
      .set j, j + 1
    .endr
  .endif
  add x1, x1, x3
  subs x4, x4, 1
  b.ne 1b
  restore_registers
  ret
.size \name, . - \name
.endm

.text
tile_shape 8, 1, 8, 2, 4
gemm_kernel gemm_f32_8x16_sve512_init, 4, 0
gemm_kernel gemm_f32_8x16_sve512_init_max, 4, 1
gemm_kernel gemm_f32_8x16_sve512_accumulate, 4, 2
tile_shape 8, 2, 8, 4, 4
gemm_kernel gemm_f32_8x32_sve512_init, 4, 0
gemm_kernel gemm_f32_8x32_sve512_init_max, 4, 1
gemm_kernel gemm_f32_8x32_sve512_accumulate, 4, 2
tile_shape 8, 3, 5, 3, 4
gemm_kernel gemm_f32_8x48_sve512_init, 4, 0
gemm_kernel gemm_f32_8x48_sve512_init_max, 4, 1
gemm_kernel gemm_f32_8x48_sve512_accumulate, 4, 2
.section .note.GNU-stack, "", %progbits
#endif
