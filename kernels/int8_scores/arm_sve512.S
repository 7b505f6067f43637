// SPDX-License-Identifier: Apache-2.0
// int8 tiles for SVE at 512 bits (A64FX): SDOT, four products in each lane. MR = 8 x NR = 16, 32 or 48, the shapes of gemm/arm_sve512.S, so
// that scores have the layout of its P; a step of four dims takes the 12 cycles that a step of one does there.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/gemm/arm_sve512_tile.inc"
.arch armv8.2-a+sve

.macro mac acc, b, a
  sdot z\acc\().s, z\b\().b, z\a\().b
.endm
.macro broadcast reg, row
  ld1rw {z\reg\().s}, p0/z, [x10, 4 * (\row)]
.endm
.macro load_vector reg, index
  ld1w {z\reg\().s}, p0/z, [x11, \index - 8, mul vl]
.endm

.macro load_column_one n, index
  ld1w {z\n\().s}, p0/z, [x9, \index, mul vl]
.endm
.macro store_column_one n, index
  st1w {z\n\().s}, p0, [x9, \index, mul vl]
.endm
// The larger one; of two zeros the old one, as on every ISA. A sum of 0 times a negative factor is -0, which FMAXNM would order below +0.
.macro max_one n, acc
  fcmgt p1.s, p0/z, z\acc\().s, z\n\().s
  mov z\n\().s, p1/m, z\acc\().s
.endm
// The score of accumulator N: query factors in z24.., the key's in z27.
.macro score_one n, query, index
  fmul z28.s, z\query\().s, z27.s
  scvtf z\n\().s, p0/m, z\n\().s
  fmul z\n\().s, z\n\().s, z28.s
  st1w {z\n\().s}, p0, [x2, \index, mul vl]
.endm

.macro int8_tile name
begin_function \name
  save_registers
  ptrue p0.b
  ldp x1, x3, [x0]        // A panel and its stride
  ldr x2, [x0, 24]        // C
  ldr x4, [x0, 40]        // panels left
  ldr x6, [x0, 64]        // factors of its keys
1:
  mov x10, x1
  ldr x11, [x0, 16]       // B
  ldr x8, [x0, 32]        // steps
  tile_zero
  tile_product \name, 4
  ldr x9, [x0, 48]        // factors of the queries
  .set j, 0
  .rept tile_nv
    load_column_one %(24 + j), %j
    .set j, j + 1
  .endr
  .set i, 0
  .rept 8
    ld1rw {z27.s}, p0/z, [x6]
    add x6, x6, 4
    .set j, 0
    .rept tile_nv
      score_one %(i * tile_nv + j), %(24 + j), %j
      .set j, j + 1
    .endr
    add x2, x2, 64 * tile_nv
    .set i, i + 1
  .endr
  ldr x9, [x0, 56]        // c_max, or null
  cbz x9, 6f
  .set j, 0
  .rept tile_nv
    load_column_one %(24 + j), %j
    .set i, 0
    .rept 8
      max_one %(24 + j), %(i * tile_nv + j)
      .set i, i + 1
    .endr
    store_column_one %(24 + j), %j
    .set j, j + 1
  .endr
6:
  add x1, x1, x3
  subs x4, x4, 1
  b.ne 1b
  restore_registers
  ret
.size \name, . - \name
.endm

.text
tile_shape 8, 1, 8, 2, 4
int8_tile int8_scores_sve512_tile_1
tile_shape 8, 2, 8, 4, 4
int8_tile int8_scores_sve512_tile_2
tile_shape 8, 3, 5, 3, 4
int8_tile int8_scores_sve512_tile_3
.section .note.GNU-stack, "", %progbits
#endif
