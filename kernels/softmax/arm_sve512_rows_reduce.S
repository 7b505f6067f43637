// SPDX-License-Identifier: Apache-2.0
// Maxima and sums of rows and panels, and rows times a number, for SVE at 512 bits.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/softmax/arm_sve512_rows.inc"
.text

// ---- Maximum and sum of rows: eight chains, reduced once a row.
.macro fold_max a, b
  fmax z\a\().s, p0/m, z\a\().s, z\b\().s
.endm
.macro fold_sum a, b
  fadd z\a\().s, z\a\().s, z\b\().s
.endm
.macro copy_chain to
  mov z\to\().d, z8.d
.endm
.macro zero_chain to
  dup z\to\().s, 0
.endm
.macro reduce_max
  fmaxv s8, p0, z8.s
.endm
.macro reduce_sum
  faddv s8, p0, z8.s
  ldr s9, [x7]
  fadd s8, s9, s8
.endm
.macro masked_load_sum i
  whilelt p1.s, x11, x10
  ld1w {z\i\().s}, p1/z, [x8, \i, mul vl]
  add x11, x11, 16
.endm
.macro masked_max i
  whilelt p1.s, x11, x10
  ld1w {z\i\().s}, p1/z, [x8, \i, mul vl]
  fmax z8.s, p1/m, z8.s, z\i\().s
  add x11, x11, 16
.endm
.macro fold_chains fold
  .set width, 1
  .rept 3
    .set chain, 0
    .rept 4
      .if (chain + width) < 8
        \fold %(8 + chain), %(8 + chain + width)
      .endif
      .set chain, chain + 2 * width
    .endr
    .set width, 2 * width
  .endr
.endm
.macro reduce_rows name, fold, first, reduce, is_max
begin_function \name
  save_registers
  row_operands
\name\().row:
  mov x8, x1
  .if \is_max
    ld1rw {z8.s}, p0/z, [x7]
  .else
    dup z8.s, 0
  .endif
  .set chain, 9
  .rept 7
    \first %chain
    .set chain, chain + 1
  .endr
  subs x10, x6, 128
  b.lt 4f
  .p2align 5
\name\().loop.e128:
3:
  each load_f32, 8, p0
  .set chain, 0
  .rept 8
    \fold %(8 + chain), %chain
    .set chain, chain + 1
  .endr
  add x8, x8, 512
  subs x10, x10, 128
  b.ge 3b
\name\().loop_end:
4:
  adds x10, x10, 128
  b.eq 5f
  mov x11, 0
  .set chain, 0
  .rept 8
    .if \is_max
      masked_max %chain
    .else
      masked_load_sum %chain
      \fold %(8 + chain), %chain
    .endif
    .set chain, chain + 1
  .endr
5:
  fold_chains \fold
  \reduce
  str s8, [x7], 4
  add x1, x1, x2
  subs x5, x5, 1
  b.ne \name\().row
  restore_registers
  ret
.size \name, . - \name
.endm

// Sums of the 8 rows of a panel: a whole vector holds two columns, so lanes 8 to 15 add up the odd ones.
begin_function rows_panel_sum_f32_sve512
  save_registers
  ptrue p0.s
  ldr x8, [x0]
  ldp x5, x6, [x0, 32]
  ldr x7, [x0, 48]
  dup z8.s, 0
  .set chain, 9
  .rept 7
    zero_chain %chain
    .set chain, chain + 1
  .endr
  lsl x6, x6, 3
  subs x10, x6, 128
  b.lt 4f
  .p2align 5
rows_panel_sum_f32_sve512.loop.e128:
3:
  each load_f32, 8, p0
  .set chain, 0
  .rept 8
    fold_sum %(8 + chain), %chain
    .set chain, chain + 1
  .endr
  add x8, x8, 512
  subs x10, x10, 128
  b.ge 3b
rows_panel_sum_f32_sve512.loop_end:
4:
  adds x10, x10, 128
  b.eq 5f
  mov x11, 0
  .set chain, 0
  .rept 8
    masked_load_sum %chain
    fold_sum %(8 + chain), %chain
    .set chain, chain + 1
  .endr
5:
  fold_chains fold_sum
  movprfx z0, z8
  ext z0.b, z0.b, z8.b, 32      // the odd columns
  fadd z8.s, z8.s, z0.s
  whilelt p1.s, xzr, x5
  ld1w {z0.s}, p1/z, [x7]
  fadd z8.s, z0.s, z8.s
  st1w {z8.s}, p1, [x7]
  restore_registers
  ret
.size rows_panel_sum_f32_sve512, . - rows_panel_sum_f32_sve512

// ---- Rows times a number.
.macro widen_one i
  fcvt z\i\().s, p0/m, z\i\().h
.endm
.macro multiply_one acc, i
  fmul z\acc\().s, z\i\().s, z24.s
.endm
.macro add_zero acc
  fadd z\acc\().s, z\acc\().s, z25.s
.endm
.macro multiply_vectors count, widen
  .if \widen
    .set i, 0
    .rept \count
      widen_one %i
      .set i, i + 1
    .endr
  .endif
  .set i, 0
  .rept \count
    multiply_one %(8 + i), %i
    .set i, i + 1
  .endr
  .set i, 0
  .rept \count
    add_zero %(8 + i)
    .set i, i + 1
  .endr
.endm
.macro multiply_rows name, load, width_in, widen, store, width_out
begin_function \name
  save_registers
  row_operands
  dup z25.s, 0
\name\().row:
  mov x8, x1
  mov x9, x3
  ld1rw {z24.s}, p0/z, [x7]
  subs x10, x6, 128
  b.lt 4f
  .p2align 5
\name\().loop.e128:
3:
  each \load, 8, p0
  multiply_vectors 8, \widen
  each_store \store, 8, p0
  add x8, x8, 128 * \width_in
  add x9, x9, 128 * \width_out
  subs x10, x10, 128
  b.ge 3b
\name\().loop_end:
4:
  adds x10, x10, 128
  b.eq 9f
  mov x11, 0
5:
  whilelt p1.s, x11, x10
  each \load, 1, p1
  multiply_vectors 1, \widen
  each_store \store, 1, p1
  add x8, x8, 16 * \width_in
  add x9, x9, 16 * \width_out
  add x11, x11, 16
  cmp x11, x10
  b.lt 5b
9:
  add x1, x1, x2
  add x3, x3, x4
  add x7, x7, 4
  subs x5, x5, 1
  b.ne \name\().row
  restore_registers
  ret
.size \name, . - \name
.endm

reduce_rows rows_max_f32_sve512, fold_max, copy_chain, reduce_max, 1
reduce_rows rows_sum_f32_sve512, fold_sum, zero_chain, reduce_sum, 0
multiply_rows rows_multiply_f32_f32_sve512, load_f32, 4, 0, store_f32, 4
multiply_rows rows_multiply_f32_f16_sve512, load_f32, 4, 0, store_f16, 2
multiply_rows rows_multiply_f16_f16_sve512, load_f16, 2, 1, store_f16, 2
.section .note.GNU-stack, "", %progbits
#endif
