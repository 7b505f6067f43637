// SPDX-License-Identifier: Apache-2.0
// Scores of decode for SVE at 512 bits (A64FX), f32, four rows, 64 keys at a time:
//
//   void decode_f32_sve512_scores_of_keys(const ScoreKeys*)
//
// A step transposes eight dims of 16 keys from rows to lanes and stores them, and multiplies two dims of 64 keys that were transposed
// before. The transposition has three rounds of UZP in registers, each of which moves one bit of a register's number into its lanes. The
// fourth round is done by the loads: of two keys, one's eight dims are loaded into the lower lanes, and the other's, from an address 32
// bytes lower, into the upper lanes, the only ones that are active. Four steps are a turn: eight dims of 64 keys. Turns run on from 64 keys
// to the next 64; only the sums are stored in between. Of the two pipes, shuffles and stores take one for 32 cycles a key of 128 dims,
// multiply-adds and the joining of halves the other for 40: 36 each if the work were even. Instructions come in pairs, the multiply-add
// second, so that the decoder gives it the other pipe.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/decode/arm_sve512_fetch.inc"
#include "kernels/decode/arm_sve512_turn.inc"
#include "kernels/gemm/arm_sve512_tile.inc"  // begin_function, save_registers, restore_registers
.arch armv8.2-a+sve
.text

define_next_range

// x0: dims to multiply, + 4 vectors; x1, x2: rows 0 and 1 of the keys to load, the latter - 32 bytes; x24, x25: the same, eight rows on; x3
// to x5: elements to 2, 4 and 6 rows on; x6: bytes from row to row; x7, x8: where dims are stored, + 8 and + 24 vectors; x10 to x17:
// arm_sve512_fetch.inc.
// x19 to x22: queries; x23: bytes to the dims to load; x26: turns left of these 64 keys; x27: their groups; x28: how many times 64 keys are
// left; x29: scores.
// z0 to z15: sums, 4 * row + group; z16 to z24: the eight registers that are transposed, register n in z(at_n), and a spare one; z25 to
// z28: a dim of the groups; z29, z30: a query's dim; z31: upper halves. p1, p2: lower and upper lanes.
.macro mac
  .if tile_multiplies
    .set mac_group, mac_number - mac_number / 4 * 4
    .set mac_row, mac_number / 4 - mac_number / 16 * 4
    .if mac_group == 0
      load_query %(29 + mac_row - mac_row / 2 * 2), %(19 + mac_row), %(4 * (2 * step_number + mac_number / 16))
    .endif
    emit_mac %(4 * mac_row + mac_group), %(25 + mac_group), %(29 + mac_row - mac_row / 2 * 2)
    .if mac_row == 3
      .if mac_number == 28
        next_dims
      .endif
      load_dim %mac_group, %(mac_group - 4 * (mac_number / 16))
    .endif
    .set mac_number, mac_number + 1
  .endif
.endm
.macro emit_mac sum, key, query
  fmla z\sum\().s, p0/m, z\key\().s, z\query\().s
.endm
.macro load_query reg, row, at
  ld1rw {z\reg\().s}, p0/z, [x\row, \at]
.endm
.macro load_dim group, at
  emit_load_dim %(25 + \group), \at
.endm
.macro emit_load_dim reg, at
  ld1w {z\reg\().s}, p0/z, [x0, \at, mul vl]
.endm
// The dims of the next step.
.macro next_dims
  .if step_number == 3
    eor x0, x0, 2048
    sub x0, x0, 1536
  .else
    add x0, x0, 512
  .endif
.endm
.macro unzip which, to, a, b
  uzp\which z\to\().s, z\a\().s, z\b\().s
  mac
.endm
.macro store_dim reg, dim
  .if \dim < 4
    emit_store_dim \reg, 7, %(4 * \dim + step_number - 8)
  .else
    emit_store_dim \reg, 8, %(4 * \dim + step_number - 24)
  .endif
  mac
.endm
.macro emit_store_dim reg, to, at
  st1w {z\reg\().s}, p0, [x\to, \at, mul vl]
.endm
// The last round, after which registers hold dims. Then z(next) is the spare one, and the other two registers are free.
.macro finish a, b, next
  emit_finish %at_\a, %at_\b, %spare, \a, \b
  .set spare, \next
.endm
.macro emit_finish a, b, to, dim_a, dim_b
  unzip 1, \to, \a, \b
  unzip 2, \b, \a, \b
  store_dim \to, \dim_a
  store_dim \b, \dim_b
.endm
// Register n: rows 2 n and 2 n + 1.
.macro load_rows n
  .if \n < 4
    load_halves %(16 + \n), 1, 2, %(\n)
  .else
    load_halves %(16 + \n), 24, 25, %(\n - 4)
  .endif
.endm
.macro load_halves to, lower, upper, n
  .if \n == 0
    ld1w {z\to\().s}, p1/z, [x\lower]
    ld1w {z31.s}, p2/z, [x\upper]
  .else
    load_halves_at \to, \lower, \upper, %(2 + \n)
  .endif
  orr z\to\().d, z\to\().d, z31.d
.endm
.macro load_halves_at to, lower, upper, offset
  ld1w {z\to\().s}, p1/z, [x\lower, x\offset, lsl 2]
  ld1w {z31.s}, p2/z, [x\upper, x\offset, lsl 2]
.endm
.macro rows_of group
  ldr x1, [x27, 8 * \group]
  add x1, x1, x23
  add x2, x1, x6
  sub x2, x2, 32
  add x24, x1, x6, lsl 3
  add x25, x2, x6, lsl 3
.endm
.macro next_rows
  .if step_number == 3
    ldr x9, [sp, 8]
    add x23, x23, 32
    cmp x23, x9
    b.ne 5f
    add x27, x27, 32
    mov x23, 0
5:
    rows_of 0
  .else
    rows_of %(step_number + 1)
  .endif
.endm
.macro set_place n
  .set at_\n, 16 + \n
.endm
// A step with group `number` of the keys, whose rows the step before has loaded.
.macro step number
  .set step_number, \number
  .set mac_number, 0
  .set n, 0
  .rept 8
    set_place %n
    .set n, n + 1
  .endr
  .set spare, 24
  pair 0, 1
  pair 4, 5
  fetch_line
  pair 2, 3
  pair 6, 7
  pair 0, 2
  pair 1, 3
  fetch_line
  next_rows
  pair 4, 6
  pair 5, 7
  finish 0, 4, 22
  load_rows 1
  load_rows 5
  finish 1, 5, 24
  load_rows 0
  load_rows 6
  finish 2, 6, 24
  load_rows 4
  load_rows 2
  finish 3, 7, 24
  load_rows 3
  load_rows 7
.endm
.macro turn
  step 0
  step 1
  step 2
  step 3
  eor x7, x7, 2048
  eor x8, x8, 2048
.endm
.macro each_sum what
  .set n, 0
  .rept 16
    \what %n
    .set n, n + 1
  .endr
.endm
.macro zero reg
  dup z\reg\().s, 0
.endm
.macro store_sum reg
  emit_store_sum \reg, %(\reg - \reg / 4 * 4)
  .if \reg - \reg / 4 * 4 == 3
    add x1, x1, x2
  .endif
.endm
.macro emit_store_sum reg, at
  st1w {z\reg\().s}, p0, [x1, \at, mul vl]
.endm

begin_function decode_f32_sve512_scores_of_keys
  save_registers
  stp x19, x20, [sp, -112]!
  stp x21, x22, [sp, 16]
  stp x23, x24, [sp, 32]
  stp x25, x26, [sp, 48]
  stp x27, x28, [sp, 64]
  stp x29, x30, [sp, 80]
  sub sp, sp, 16
  ptrue p0.s
  ptrue p1.s, vl8
  not p2.b, p0/z, p1.b
  ldp x27, x6, [x0]
  ldp x9, x28, [x0, 32]
  ldr x29, [x0, 48]
  ldp x7, x12, [x0, 64]
  lsl x9, x9, 5
  stp x0, x9, [sp]          // and the bytes of all dims
  lsr x3, x6, 1
  add x4, x3, x3
  add x5, x4, x3
  add x0, x7, 256
  add x8, x7, 1536
  add x7, x7, 512
  mov x23, 0
  rows_of 0
  .set n, 0
  .rept 8
    load_rows %n
    .set n, n + 1
  .endr
  begin_fetching
  .set tile_multiplies, 0
  turn
  .set n, 0
  .rept 4
    load_dim %n, %(n - 4)
    .set n, n + 1
  .endr
  .set tile_multiplies, 1
1:
  ldr x9, [sp]
  ldr x26, [x9, 32]
  ldp x19, x9, [x9, 16]
  add x20, x19, x9
  add x21, x20, x9
  add x22, x21, x9
  each_sum zero
2:
decode_f32_sve512_scores_of_keys.loop.t1:
  turn
  add x19, x19, 32
  add x20, x20, 32
  add x21, x21, 32
  add x22, x22, 32
  subs x26, x26, 1
  b.ne 2b
decode_f32_sve512_scores_of_keys.loop_end:
  ldr x9, [sp]
  ldr x2, [x9, 56]
  mov x1, x29
  each_sum store_sum
  add x29, x29, 256
  subs x28, x28, 1
  b.ne 1b
  end_fetching
  add sp, sp, 16
  ldp x29, x30, [sp, 80]
  ldp x27, x28, [sp, 64]
  ldp x25, x26, [sp, 48]
  ldp x23, x24, [sp, 32]
  ldp x21, x22, [sp, 16]
  ldp x19, x20, [sp], 112
  restore_registers
  ret
.size decode_f32_sve512_scores_of_keys, . - decode_f32_sve512_scores_of_keys
.section .note.GNU-stack, "", %progbits
#endif
