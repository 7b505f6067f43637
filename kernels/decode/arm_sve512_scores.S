// SPDX-License-Identifier: Apache-2.0
// Scores of decode for SVE at 512 bits (A64FX), f32, four rows, 32 keys at a time:
//
//   void decode_f32_sve512_scores_of_pairs(const ScoreKeys*)
//
// A turn takes 16 dims of two groups of 16 keys: it shuffles the rows of the next ones in two of four rounds, four rows at a time, and stores
// them; loads four dims of those before and shuffles them in the other two; and multiplies the four dims made before. Turns go on
// from one pair of groups to the next, and only their sums are stored between: where each pair began and ended by itself, that took 14 cycles a
// key of 52 (D = 128). Shuffles and stores take one pipe, 40 cycles a key; multiply-adds the other, 32, with 8 chains of 9 cycles.
// Instructions come in twos, the multiply-add second, so that the decoder gives it the other pipe.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/decode/arm_sve512_fetch.inc"
#include "kernels/gemm/arm_sve512_tile.inc"  // begin_function, save_registers, restore_registers
.arch armv8.2-a+sve
.text

define_next_range

// x1, x2: row c of both groups, in the next turn's dims; x3 to x5: elements to rows c + 4, c + 8 and c + 12; x6: bytes from row to row.
// x7, x8: where half shuffled rows are stored, +512 and +1536 bytes; x0, x24: where those before are. x10 to x17: arm_sve512_fetch.inc.
// x19 to x22: queries, from four dims before a turn's; x23: bytes to the next turn's dims, x25: turns until those of another pair are next;
// x26: turns left of a pair; x27: groups of the next turn; x28: pairs left; x29: where sums are stored.
// z0 to z7: sums, 2 * row + group; z8 to z15 and z16 to z23: four dims of both groups, made and multiplied in turn; z29, z30: a query's dim.
.macro mac
  .set chain, mac_number - mac_number / 8 * 8
  emit_mac %chain, %(tile_now + 4 * (chain - chain / 2 * 2) + mac_number / 8), %(29 + chain / 2 - chain / 4 * 2)
  .set mac_number, mac_number + 1
.endm
.macro emit_mac sum, key, query
  fmla z\sum\().s, p0/m, z\key\().s, z\query\().s
.endm
// Two rows' dim that the next four multiply-adds take.
.macro load_queries
  .set chain, mac_number - mac_number / 8 * 8
  emit_queries %(19 + chain / 2), %(20 + chain / 2), %(16 * tile_step + 4 * (mac_number / 8))
.endm
.macro emit_queries first, second, at
  ld1rw {z29.s}, p0/z, [x\first, \at]
  ld1rw {z30.s}, p0/z, [x\second, \at]
.endm
.macro shuffle which, to, a, b
  zip\which z\to\().s, z\a\().s, z\b\().s
  .if tile_multiplies
    mac
  .endif
.endm
.macro queries_if_used
  .if tile_multiplies
    load_queries
  .endif
.endm
.macro first_round
  queries_if_used
  shuffle 1, 28, 24, 26
  shuffle 2, 26, 24, 26
  shuffle 1, 24, 25, 27
  shuffle 2, 27, 25, 27
.endm
.macro store_half reg, to, at
  st1w {z\reg\().s}, p0, [x\to, \at, mul vl]
.endm
.macro load_half reg, from, at
  ld1w {z\reg\().s}, p0/z, [x\from, \at, mul vl]
.endm
// Rows of a group.
.macro read_rows group
  ld1w {z24.s}, p0/z, [x\group]
  ld1w {z25.s}, p0/z, [x\group, x3, lsl 2]
  ld1w {z26.s}, p0/z, [x\group, x4, lsl 2]
  ld1w {z27.s}, p0/z, [x\group, x5, lsl 2]
  add x\group, x\group, x6
  .set place, 2 * tile_step + \group - 1 - 8
  first_round
  queries_if_used
  shuffle 1, 25, 28, 24
  shuffle 2, 28, 28, 24
  shuffle 1, 24, 26, 27
  shuffle 2, 26, 26, 27
  store_half 25, 7, %place
  store_half 28, 7, %(place + 8)
  store_half 24, 8, %place
  store_half 26, 8, %(place + 8)
.endm
// Four dims of a group, from the register `made` on.
.macro make_dims group, made
  .set place, 8 * (tile_step - tile_step / 2 * 2) + \group - 1 - 8
  .if tile_step < 2
    .set from, 0
  .else
    .set from, 24
  .endif
  load_half 24, %from, %place
  load_half 25, %from, %(place + 2)
  load_half 26, %from, %(place + 4)
  load_half 27, %from, %(place + 6)
  first_round
  queries_if_used
  shuffle 1, \made, 28, 24
  shuffle 2, %(\made + 1), 28, 24
  shuffle 1, %(\made + 2), 26, 27
  shuffle 2, %(\made + 3), 26, 27
.endm
.macro step number
  .set tile_step, \number
  .set tile_multiplies, 1
  .set tile_now, 8 + 8 * (\number - \number / 2 * 2)
  .set mac_number, 0
  fetch_line
  read_rows 1
  make_dims 1, %(24 - tile_now)
  fetch_line
  read_rows 2
  make_dims 2, %(28 - tile_now)
.endm
// From a turn to the next.
.macro next_rows
  ldr x9, [sp]
  subs x25, x25, 1
  add x23, x23, 64
  b.ne 5f
  add x27, x27, 16
  mov x23, 0
  ldr x25, [x9, 32]
5:
  ldp x1, x2, [x27]
  add x1, x1, x23
  add x2, x2, x23
  eor x7, x7, 2048
  eor x8, x8, 2048
  eor x0, x0, 2048
  eor x24, x24, 2048
.endm
.macro next_turn
  next_rows
  add x19, x19, 64
  add x20, x20, 64
  add x21, x21, 64
  add x22, x22, 64
.endm
.macro store_sums
  ldr x9, [sp]
  ldr x9, [x9, 56]
  st1w {z0.s}, p0, [x29]
  st1w {z1.s}, p0, [x29, 1, mul vl]
  add x29, x29, x9
  st1w {z2.s}, p0, [x29]
  st1w {z3.s}, p0, [x29, 1, mul vl]
  add x29, x29, x9
  st1w {z4.s}, p0, [x29]
  st1w {z5.s}, p0, [x29, 1, mul vl]
  add x29, x29, x9
  st1w {z6.s}, p0, [x29]
  st1w {z7.s}, p0, [x29, 1, mul vl]
.endm
// Queries from four dims before `at` bytes on.
.macro begin_queries at
  ldp x19, x9, [x9, 16]
  add x19, x19, \at
  sub x19, x19, 16
  add x20, x19, x9
  add x21, x20, x9
  add x22, x21, x9
.endm
.macro zero reg
  dup z\reg\().s, 0
.endm

begin_function decode_f32_sve512_scores_of_pairs
  save_registers
  stp x19, x20, [sp, -96]!
  stp x21, x22, [sp, 16]
  stp x23, x24, [sp, 32]
  stp x25, x26, [sp, 48]
  stp x27, x28, [sp, 64]
  stp x29, x30, [sp, 80]
  sub sp, sp, 16
  str x0, [sp]
  str xzr, [sp, 8]          // from the sums of a pair to those of the next: not before the first pair's are made
  ptrue p0.s
  mov x9, x0
  ldp x27, x6, [x9]
  ldp x25, x28, [x9, 32]
  ldr x29, [x9, 48]
  ldp x7, x12, [x9, 64]
  add x7, x7, 512
  add x8, x7, 1024
  mov x0, x7
  mov x24, x8
  mov x3, x6                // elements: four times the stride, less two places
  add x4, x3, x3
  add x5, x4, x3
  mov x23, 0
  ldp x1, x2, [x27]
  begin_fetching
  .set tile_multiplies, 0
  .set tile_step, 0
  .rept 4
    fetch_line
    read_rows 1
    fetch_line
    read_rows 2
    .set tile_step, tile_step + 1
  .endr
  eor x0, x0, 2048          // next_rows brings them together with x7 and x8
  eor x24, x24, 2048
  next_rows
  ldr x9, [sp]
  ldr x26, [x9, 32]
  lsl x26, x26, 6
  begin_queries x26         // multiplied by 0, into sums that no one reads
  .set n, 8
  .rept 8
    zero %n
    .set n, n + 1
  .endr
1:
  ldr x9, [sp]
  ldr x26, [x9, 32]
  step 0
  store_sums
  ldr x9, [sp]
  ldr x19, [x9, 56]
  add x9, x19, x19, lsl 1
  sub x29, x29, x9
  ldr x9, [sp, 8]
  add x29, x29, x9
  mov x9, 128
  str x9, [sp, 8]
  .set n, 0
  .rept 8
    zero %n
    .set n, n + 1
  .endr
  ldr x9, [sp]
  begin_queries 0
  step 1
  step 2
  step 3
  next_turn
  subs x26, x26, 1
  b.eq 3f
2:
decode_f32_sve512_scores_of_pairs.loop.t1:
  step 0
  step 1
  step 2
  step 3
  next_turn
  subs x26, x26, 1
  b.ne 2b
decode_f32_sve512_scores_of_pairs.loop_end:
3:
  subs x28, x28, 1
  b.ne 1b
  .set tile_step, 0
  .set tile_now, 8
  .set mac_number, 0
  .rept 8
    load_queries
    mac
    mac
    mac
    mac
  .endr
  store_sums
  end_fetching
  add sp, sp, 16
  ldp x29, x30, [sp, 80]
  ldp x27, x28, [sp, 64]
  ldp x25, x26, [sp, 48]
  ldp x23, x24, [sp, 32]
  ldp x21, x22, [sp, 16]
  ldp x19, x20, [sp], 96
  restore_registers
  ret
.size decode_f32_sve512_scores_of_pairs, . - decode_f32_sve512_scores_of_pairs
.section .note.GNU-stack, "", %progbits
#endif
