// SPDX-License-Identifier: Apache-2.0
// K panels of f32 for SVE at 512 bits (A64FX): 8 rows to columns. Contract: PackKeyArgs in pack.h; one panel a call (arm_sve512.cpp).
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve
.altmacro
.text

// 8 rows of 4 columns become two vectors of 8 x 2. Each row's 4 elements are loaded into all four quarters of a register; selections, which
// can run on either pipe, merge 4 rows into one register, and two UZP transpose 2 x 4 x 4: 24 selections, 16 UZP and 8 stores for 128
// elements are 48 slots, where ZIPs and whole loads would take 24 + 8 slots of one pipe alone.
.macro quarter_load acc, row, column, mask
  ld1rqw {z\acc\().s}, \mask\()/z, [x\row, x\column, lsl 2]
.endm
.macro quarters a, b, c, d
  sel z\a\().s, p8, z\b\().s, z\a\().s
  sel z\c\().s, p10, z\d\().s, z\c\().s
.endm
.macro halves a, c
  sel z\a\().s, p9, z\c\().s, z\a\().s
.endm
.macro unzip even, odd, a, b
  uzp1 z\even\().s, z\a\().s, z\b\().s
  uzp2 z\odd\().s, z\a\().s, z\b\().s
.endm
// Columns 4q .. 4q + 3 into z(2q), z(2q + 1), with the registers from t on as scratch. Rows at x8 .. x15, columns counted by x1 + q.
.macro four_columns q, t, mask
  .set row, 0
  .rept 8
    quarter_load %(\t + row), %(8 + row), %(1 + \q), \mask
    .set row, row + 1
  .endr
  quarters %(\t), %(\t + 1), %(\t + 2), %(\t + 3)
  quarters %(\t + 4), %(\t + 5), %(\t + 6), %(\t + 7)
  halves %(\t), %(\t + 2)
  halves %(\t + 4), %(\t + 6)
  unzip %(\t + 1), %(\t + 3), %(\t), %(\t + 4)
  unzip %(2 * \q), %(2 * \q + 1), %(\t + 1), %(\t + 3)
.endm

.macro keep_rows i
  sel z\i\().s, p11, z\i\().s, z31.s
.endm
.macro store_columns n, i, mask
  st1w {z\n\().s}, \mask, [x6, \i, mul vl]
.endm
.macro each what, count, mask
  .set i, 0
  .rept \count
    \what %i, %i, \mask
    .set i, i + 1
  .endr
.endm
.macro each_keep count
  .set i, 0
  .rept \count
    keep_rows %i
    .set i, i + 1
  .endr
.endm

// ragged: rows past the last are 0. Then goes to label 9.
.macro panel_loop label, ragged
  mov x1, 0
  mov x2, 4
  mov x3, 8
  mov x4, 12
  subs x5, x7, 16
  b.lt 4f
  .p2align 5
\label\().loop.e128:
3:
  .set group, 0
  .rept 4
    four_columns %group, %(8 + 8 * (group - group / 2 * 2)), p0
    .set group, group + 1
  .endr
  .if \ragged
    each_keep 8
  .endif
  each store_columns, 8, p0
  adds x1, x1, 16
  add x2, x2, 16
  add x3, x3, 16
  add x4, x4, 16
  add x6, x6, 512
  subs x5, x5, 16
  b.ge 3b
\label\().loop_end:
4:
  adds x5, x5, 16
  b.eq 9f
5:                              // four columns, or what is left
  whilelt p1.s, xzr, x5
  four_columns 0, 16, p1
  .if \ragged
    each_keep 2
  .endif
  lsl x16, x5, 3
  mov x17, 16
  whilelt p2.s, xzr, x16
  whilelt p3.s, x17, x16
  store_columns 0, 0, p2
  store_columns 1, 1, p3
  add x1, x1, 4
  add x6, x6, 128
  subs x5, x5, 4
  b.gt 5b
  b 9f
.endm

// x8 .. x15: rows; for missing rows, the first row. x6 target, x7 dims.
.macro next_row number, before
  add x\number, x\before, x2
.endm
.macro present_row number, row
  cmp x5, \row
  csel x\number, x\number, x1, gt
.endm

.global pack_key_f32_sve512
.hidden pack_key_f32_sve512
.type pack_key_f32_sve512, STT_FUNC
.p2align 6
pack_key_f32_sve512:
  stp d8, d9, [sp, -64]!
  stp d10, d11, [sp, 16]
  stp d12, d13, [sp, 32]
  stp d14, d15, [sp, 48]
  ptrue p0.s
  ldp x1, x2, [x0]
  ldp x5, x7, [x0, 16]
  ldr x6, [x0, 32]
  mov x8, x1
  .set row, 1
  .rept 7
    next_row %(8 + row), %(7 + row)
    .set row, row + 1
  .endr
  .set row, 1
  .rept 7
    present_row %(8 + row), %row
    .set row, row + 1
  .endr
  ptrue p8.s, vl4
  ptrue p9.s, vl8
  not p10.b, p0/z, p9.b         // lanes 8 to 15
  eor p8.b, p0/z, p8.b, p9.b    // 4 to 7
  mov x16, -12                  // 12 to 15: 0 to 3 rotated
  index z31.s, w16, 1
  cmpge p11.s, p0/z, z31.s, 0
  mov p9.b, p10.b
  mov p10.b, p11.b
  cmp x5, 8
  b.lt 6f
  panel_loop pack_key_f32_sve512, 0
6:
  index z0.s, 0, 1
  and z0.s, z0.s, 7
  dup z31.s, w5
  cmplt p1.s, p0/z, z0.s, z31.s
  mov p11.b, p1.b
  dup z31.s, 0
  panel_loop pack_key_f32_ragged_sve512, 1
9:
  ldp d14, d15, [sp, 48]
  ldp d12, d13, [sp, 32]
  ldp d10, d11, [sp, 16]
  ldp d8, d9, [sp], 64
  ret
.size pack_key_f32_sve512, . - pack_key_f32_sve512
.section .note.GNU-stack, "", %progbits
#endif
