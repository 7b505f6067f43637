// SPDX-License-Identifier: Apache-2.0
// Transposes keys of decode's product f16 from rows to lanes, for SVE at 512 bits (A64FX), and finds the largest magnitude of each:
//
//   void decode_f16_sve512_turn_keys(const TurnedKeys*)
//
// A turn transposes 16 dims of 32 keys. It has four rounds of UZP in registers, each of which moves one bit of a register's number into its
// lanes. The fifth round is done by the loads: of two keys, one's 16 dims are loaded into the lower lanes, and the other's, from an address
// 32 bytes lower, into the upper lanes; lanes outside a row's dims are inactive. Bound: 80 cycles for 32 keys by 16 dims, by shuffles and
// stores, which only one pipe executes; joining the halves and the magnitudes take the other for 48. Instructions come in pairs, second the
// one that either pipe can execute, so that the decoder gives it the other pipe.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/decode/arm_sve512_fetch.inc"
#include "kernels/decode/arm_sve512_turn.inc"
#include "kernels/gemm/arm_sve512_tile.inc"  // begin_function, save_registers, restore_registers
.arch armv8.2-a+sve
.text

define_next_range

// x1, x2: two rows; x5: points to the rows' addresses; x6, x7: dims of the rows to load, less 16; x8: where dims are stored, + 8 vectors;
// x10 to x17: arm_sve512_fetch.inc; x19: dims; x20: groups of 32 keys left; x21: where their magnitudes go.
// z0 to z16: the 16 registers of the turn, register n in z(at_n), and a spare one. z17 to z24: registers 0 to 7 of the next turn before its
// first round; z25 to z28: upper halves; z29: largest magnitudes; z30: all bits but the sign; z31: a magnitude. p1, p2: lanes of x6 and x7;
// p3: lower lanes.
// Register n holds rows 2 n and 2 n + 1. The second half of the rows is loaded while the first half is shuffled, and the next turn's first
// half after that.
.macro set_halves n
  .set upper, 25 + \n - \n / 4 * 4
  .if \n < 8
    .set lower, 17 + \n
  .else
    .set lower, \n
  .endif
.endm
.macro load_rows n
  set_halves \n
  ldp x1, x2, [x5, 16 * \n]
  load_half %lower, 1, 6, 1
  load_half %upper, 2, 7, 2
.endm
.macro load_half reg, row, dims, lanes
  ld1h {z\reg\().h}, p\lanes/z, [x\row, x\dims, lsl 1]
.endm
.macro join_rows n
  set_halves \n
  join %lower, %upper
.endm
.macro join a, b
  orr z\a\().d, z\a\().d, z\b\().d
.endm
.macro unzip which, to, a, b
  uzp\which z\to\().h, z\a\().h, z\b\().h
.endm
// The first round of the first half.
.macro unzip_loaded n
  unzip 1, %(2 * \n), %(17 + 2 * \n), %(18 + 2 * \n)
  unzip 2, %(2 * \n + 1), %(17 + 2 * \n), %(18 + 2 * \n)
.endm
.macro set_place n
  .set at_\n, \n
.endm
// The last round, after which registers hold dims.
.macro finish a, b
  emit_finish %at_\a, %at_\b, %spare, %(\a - 8), %(\b - 8)
.endm
.macro emit_finish a, b, to, place_a, place_b
  unzip 1, \to, \a, \b
  unzip 2, \b, \a, \b
  magnitude 31, \to
  st1h {z\to\().h}, p0, [x8, \place_a, mul vl]
  magnitude \to, \b
  st1h {z\b\().h}, p0, [x8, \place_b, mul vl]
  raise 31, \to
  raise 29, 31
.endm
.macro magnitude to, of
  and z\to\().d, z\of\().d, z30.d
.endm
.macro raise to, by
  umax z\to\().h, p0/m, z\to\().h, z\by\().h
.endm
// Sets p1 and p2 to the lanes of the row's dims from x6 on.
.macro lanes_of_dims
  whilelt p1.h, x6, x19
  whilelt p2.h, x7, x19
  and p1.b, p0/z, p1.b, p3.b
  bic p2.b, p0/z, p2.b, p3.b
.endm

begin_function decode_f16_sve512_turn_keys
  save_registers
  stp x19, x20, [sp, -32]!
  stp x21, x30, [sp, 16]
  ptrue p0.b
  ptrue p3.h, vl16
  ldp x5, x19, [x0]
  ldp x20, x8, [x0, 16]
  ldp x21, x12, [x0, 32]
  add x8, x8, 512
  mov x6, 0
  mov x7, -16
  mov z30.h, 0x7fff
  dup z29.h, 0
  lanes_of_dims
  begin_fetching
  load_rows 0
  load_rows 1
  load_rows 2
  load_rows 3
  .set n, 0
  .rept 4
    join_rows %n
    load_rows %(n + 4)
    .set n, n + 1
  .endr
  .rept 4
    join_rows %n
    .set n, n + 1
  .endr
1:
decode_f16_sve512_turn_keys.loop.t1:
  .set n, 0
  .rept 16
    set_place %n
    .set n, n + 1
  .endr
  .set spare, 16
  unzip_loaded 0
  load_rows 8
  unzip_loaded 1
  load_rows 9
  unzip_loaded 2
  load_rows 10
  join_rows 8
  unzip_loaded 3
  load_rows 11
  join_rows 9
  pair 0, 2
  fetch_line
  join_rows 10
  pair 1, 3
  load_rows 12
  join_rows 11
  pair 4, 6
  load_rows 13
  join_rows 12
  pair 5, 7
  load_rows 14
  join_rows 13
  pair 0, 4
  load_rows 15
  pair 1, 5
  join_rows 14
  fetch_line
  pair 2, 6
  join_rows 15
  add x6, x6, 16
  add x7, x7, 16
  cmp x6, x19
  b.lt 2f
  mov x6, 0
  mov x7, -16
  add x5, x5, 256
2:
  lanes_of_dims
  pair 3, 7
  pair 8, 9
  load_rows 0
  pair 10, 11
  load_rows 1
  pair 12, 13
  load_rows 2
  join_rows 0
  pair 14, 15
  load_rows 3
  join_rows 1
  pair 8, 10
  fetch_line
  join_rows 2
  pair 9, 11
  load_rows 4
  join_rows 3
  pair 12, 14
  load_rows 5
  join_rows 4
  pair 13, 15
  load_rows 6
  join_rows 5
  pair 8, 12
  load_rows 7
  pair 9, 13
  join_rows 6
  fetch_line
  pair 10, 14
  join_rows 7
  pair 11, 15
  finish 0, 8
  finish 4, 12
  finish 1, 9
  finish 5, 13
  finish 2, 10
  finish 6, 14
  finish 3, 11
  finish 7, 15
  add x8, x8, 1024
  cbnz x6, 1b
decode_f16_sve512_turn_keys.loop_end:
  st1h {z29.h}, p0, [x21]
  add x21, x21, 64
  dup z29.h, 0
  subs x20, x20, 1
  b.ne 1b
  end_fetching
  ldp x21, x30, [sp, 16]
  ldp x19, x20, [sp], 32
  restore_registers
  ret
.size decode_f16_sve512_turn_keys, . - decode_f16_sve512_turn_keys
.section .note.GNU-stack, "", %progbits
#endif
