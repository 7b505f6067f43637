// SPDX-License-Identifier: Apache-2.0
// Rows into column-major panels for SVE at 512 bits, unchanged or as exponentials (software pipelines as in arm_sve512_rows_exp2.S).
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/softmax/arm_sve512_rows.inc"
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
// Columns 4q .. 4q + 3 into z(2q), z(2q + 1) by the registers from t on. Rows at x8 .. x15, columns counted by x1 + q.
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
.macro each_keep count
  .set i, 0
  .rept \count
    keep_rows %i
    .set i, i + 1
  .endr
.endm
// Panels of f32, or of f16 where the symbol panel_half is set: 2 bytes a lane, so that a step is half as long.
.macro store_panel acc, i, mask
  .if panel_half
    fcvt z\acc\().h, p0/m, z\acc\().s
    st1h {z\acc\().s}, \mask, [x6, \i, mul vl]
  .else
    st1w {z\acc\().s}, \mask, [x6, \i, mul vl]
  .endif
.endm
.macro next_panel_columns columns
  add x6, x6, 32 * \columns - 16 * \columns * panel_half
.endm
// what: 0 unchanged, 1 missing rows become 0, 2 exponentials, 3 exponentials without folding
.macro panel_result what, count, convert, exact
  .if \what == 1
    each_keep \count
  .elseif \what > 1
    .if \convert
      each_convert \count
    .endif
    exp2_vectors \count, \exact, (3 - \what), 1
  .endif
.endm

.macro start_columns
  mov x1, 0
  mov x2, 4
  mov x3, 8
  mov x4, 12
.endm
.macro next_columns
  adds x1, x1, 16
  add x2, x2, 16
  add x3, x3, 16
  add x4, x4, 16
.endm
// Less than 16 columns: x5 holds their number less 16. Then goes to label 9.
.macro panel_rest what, convert, exact
  .set first, 8 * (\what / 2)           // the first register of results
  adds x5, x5, 16
  b.eq 9f
5:                              // four columns, or what is left
  whilelt p1.s, xzr, x5
  four_columns 0, 16, p1
  panel_result \what, 2, \convert, \exact
  lsl x16, x5, 3
  mov x17, 16
  whilelt p2.s, xzr, x16
  whilelt p3.s, x17, x16
  store_panel %first, 0, p2
  store_panel %(first + 1), 1, p3
  add x1, x1, 4
  next_panel_columns 4
  subs x5, x5, 4
  b.gt 5b
  b 9f
.endm

.macro panel_loop label, what, convert, exact
  .set first, 8 * (\what / 2)
  start_columns
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
  panel_result \what, 8, \convert, \exact
  .set i, 0
  .rept 8
    store_panel %(first + i), %i, p0
    .set i, i + 1
  .endr
  next_columns
  next_panel_columns 16
  subs x5, x5, 16
  b.ge 3b
\label\().loop_end:
4:
  panel_rest \what, \convert, \exact
.endm

// x8 .. x15: rows; for missing rows, the first row. x6 target, x7 n.
.macro next_row number, before
  add x\number, x\before, x2
.endm
.macro present_row number, row
  cmp x5, \row
  csel x\number, x\number, x1, gt
.endm
.macro panel_operands
  ptrue p0.s
  ldp x1, x2, [x0]
  ldr x6, [x0, 16]
  ldp x5, x7, [x0, 32]
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
.endm

// The software pipeline of a panel: 16 columns in three times 64 turns. Columns 4q .. 4q + 3 enter together in turn 16 q and are vectors 2q
// and 2q + 1, the second 8 turns later. Parts 1, 2 and 3 are 64 turns each: parts \from to \to run at once, each on its own group of
// columns. Registers: scores z(i mod 4), the polynomial z(4 + i mod 4), results z(8 + i), intermediate values z(16 + i mod 4), quarters
// z20-23 and z29-31.
.macro quarters_at at, q
  .if \at == 0
    quarter_load 20, 8, %(1 + \q), p0
    quarter_load 21, 9, %(1 + \q), p0
    quarter_load 22, 10, %(1 + \q), p0
    quarter_load 23, 11, %(1 + \q), p0
    quarter_load 29, 12, %(1 + \q), p0
    quarter_load 30, 13, %(1 + \q), p0
    quarter_load 31, 14, %(1 + \q), p0
  .elseif \at == 1
    quarters 20, 21, 22, 23
    quarter_load 21, 15, %(1 + \q), p0
  .elseif \at == 2
    halves 20, 22
  .elseif \at == 5
    quarters 29, 30, 31, 21
  .elseif \at == 8
    halves 29, 31
  .elseif \at == 9
    unzip 21, 23, 20, 29
  .elseif \at == 14
    unzip %(2 * \q - \q / 2 * 4), %(2 * \q - \q / 2 * 4 + 1), 21, 23
  .endif
.endm
.macro panel_stage_at at, i, convert, exact, place
  .set scores, \i - \i / 4 * 4
  .set between, 16 + scores
  .set powers, 4 + scores
  .if \at == 19
    .if \convert
      stage_convert %scores
    .endif
  .elseif \at == 28
    stage_clamp %scores
  .elseif \at == 32
    stage_index %(8 + \i), %scores
  .elseif \exact
    .if \at == 36
      stage_whole %between, %(8 + \i)
    .elseif \at == 37
      stage_rest %between, %scores
    .elseif \at == 60
      stage_expa %(8 + \i)
    .elseif \at == 59
      stage_poly %powers, %between
    .elseif \at == 67
      stage_poly_times %powers, %between
    .elseif \at == 84
      stage_result %(8 + \i), %powers
    .elseif \at == 86
      store_panel %(8 + \i), %(\i + \place), p0
    .endif
  .elseif \at == 47
    stage_expa %(8 + \i)
  .elseif \at == 74
    store_panel %(8 + \i), %(\i + \place), p0
  .endif
.endm
.macro panel_turns from, to, convert, exact
  .set turn, 0
  .rept 64
    .set part, \to
    .rept \to - \from + 1
      .set vector, 0
      .rept 8
        .set at, turn - 8 * vector + 64 * (part - 1)
        panel_stage_at %at, %vector, \convert, \exact, %(16 - 8 * part)
        .set vector, vector + 1
      .endr
      .set part, part - 1
    .endr
    .set part, \to
    .rept \to - \from + 1
      .set vector, 0
      .rept 4
        .set at, turn - 16 * vector + 64 * (part - 1)
        quarters_at %at, %vector
        .set vector, vector + 1
      .endr
      .set part, part - 1
    .endr
    .set turn, turn + 1
  .endr
  .if \from == 1
    next_columns
  .endif
  .if \from < 3
    .if \to > 1
      next_panel_columns 16       // part 2 stores to x6 on, part 3 to the 8 vectors before
    .endif
  .endif
.endm
// x1 counts up to 0, where the last 16 columns begin, and is also the index of the first of four columns, with rows addressed from their
// ends: a separate counter would take one of the registers that limit how far turns overlap.
.macro panel_pipeline label, convert, exact
  sub x16, x7, 16
  .irp row, 8, 9, 10, 11, 12, 13, 14, 15
    add x\row, x\row, x16, lsl 2
  .endr
  neg x1, x16
  add x2, x1, 4
  add x3, x1, 8
  add x4, x1, 12
  cmp x1, 0
  b.gt 4f
  panel_turns 1, 1, \convert, \exact
  b.gt 1f
  panel_turns 1, 2, \convert, \exact
  b.gt 2f
  .p2align 5
\label\().loop.e128:
3:
  panel_turns 1, 3, \convert, \exact
  b.le 3b
\label\().loop_end:
2:
  panel_turns 2, 3, \convert, \exact
  panel_turns 3, 3, \convert, \exact
  b 4f
1:
  panel_turns 2, 2, \convert, \exact
  panel_turns 3, 3, \convert, \exact
4:
  neg x5, x1                    // columns left less 16
  panel_rest 2, \convert, \exact
.endm

.macro exp2_panel name, convert, half, exact
.set panel_half, \half
begin_function \name
  save_registers
  panel_operands
  exp2_constants
  fmov z31.s, 1.0
  fdiv z31.s, p0/m, z31.s, z24.s
  ldr x16, [x0, 48]
  whilelt p1.s, xzr, x5
  ld1w {z25.s}, p1/z, [x16]
  ld1rw {z0.s}, p0/z, [x16]
  sel z25.s, p1, z25.s, z0.s    // missing rows: the first row's value, like its scores
  movprfx z0, z25
  ext z0.b, z0.b, z25.b, 32
  ptrue p2.s, vl8
  sel z25.s, p2, z25.s, z0.s    // the values of 8 rows twice
  prepare_values
  cbnz w17, 6f
  panel_pipeline \name, \convert, \exact
6:
  panel_loop \name\().unfolded, 3, \convert, \exact
9:
  restore_registers
  ret
.size \name, . - \name
.endm

.macro copy_panel name
.set panel_half, 0
begin_function \name
  save_registers
  panel_operands
  cmp x5, 8
  b.lt 6f
  panel_loop \name, 0, 0, 0
6:
  index z0.s, 0, 1
  and z0.s, z0.s, 7
  dup z31.s, w5
  cmplt p1.s, p0/z, z0.s, z31.s
  mov p11.b, p1.b
  dup z31.s, 0
  panel_loop \name\().ragged, 1, 0, 0
9:
  restore_registers
  ret
.size \name, . - \name
.endm

exp2_panel rows_exp2_panel_f32_f32_sve512, 0, 0, 1
exp2_panel rows_exp2_panel_f32_f16_sve512, 0, 1, 1
exp2_panel rows_exp2_panel_i32_f32_sve512, 1, 0, 1
exp2_panel rows_exp2_panel_i32_f16_sve512, 1, 1, 1
exp2_panel rows_exp2_fast_panel_f32_f32_sve512, 0, 0, 0
exp2_panel rows_exp2_fast_panel_f32_f16_sve512, 0, 1, 0
exp2_panel rows_exp2_fast_panel_i32_f32_sve512, 1, 0, 0
exp2_panel rows_exp2_fast_panel_i32_f16_sve512, 1, 1, 0
copy_panel rows_panel_f32_f32_sve512
.section .note.GNU-stack, "", %progbits
#endif
