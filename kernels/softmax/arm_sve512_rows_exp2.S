// SPDX-License-Identifier: Apache-2.0
// Exponentials of rows for SVE at 512 bits.
//
// One exponential is a chain of 70 cycles from its load on, and takes 9 slots of the two pipes (4.5 cycles) with its store: 15 of them have
// to be in flight. In an order in which operations wait for operands, the core's 96 free registers hold fewer (0.40 cycles an element in
// llvm-mca's narrow core). So the loops are software pipelines: each stage of eight vectors is placed where its operands are about ready,
// and the late stages of one turn are beside the early stages of the next (0.30).
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/softmax/arm_sve512_rows.inc"
.text

// \convert: the scores are i32. width: bytes of an element of P.
// The software pipeline of a row: vector i is 4 turns behind vector i - 1. All eight pass through their stages in 64 turns, of which the
// first 32 are part 1, the others part 2. Part 3 is both at once: part 2 of a group beside part 1 of the next. Intermediate values: z(16 +
// i mod 4); two vectors that share one are 16 turns apart and do not use it at the same time.
.macro stage_at at, i, convert, exact, store
  .if \at == 0
    load_f32 \i, p0
  .elseif \at == 1
    .if \convert
      stage_convert \i
    .endif
  .elseif \at == 2
    stage_clamp \i
  .elseif \at == 6
    stage_index %(8 + \i), \i
  .elseif \exact
    .set between, 16 + \i - \i / 4 * 4
    .if \at == 11
      stage_whole %between, %(8 + \i)
    .elseif \at == 13
      stage_rest %between, \i
    .elseif \at == 21
      stage_expa %(8 + \i)
      stage_poly \i, %between
    .elseif \at == 26
      stage_poly_times \i, %between
    .elseif \at == 31
      stage_result %(8 + \i), \i
    .elseif \at == 35
      \store %(8 + \i), \i, p0
    .endif
  .elseif \at == 16
    stage_expa %(8 + \i)
  .elseif \at == 35
    \store %(8 + \i), \i, p0
  .endif
.endm
.macro exp2_turns parts, convert, exact, store
  .set turn, 0
  .rept 32
    .set vector, 0
    .rept 8
      .set at, turn - 4 * vector
      .if \parts > 1
        stage_at %(at + 32), %vector, \convert, \exact, \store
      .endif
      .if \parts != 2
        stage_at %at, %vector, \convert, \exact, \store
      .endif
      .set vector, vector + 1
    .endr
    .set turn, turn + 1
  .endr
.endm

.macro exp2_rows name, convert, width, store, exact
begin_function \name
  save_registers
  row_operands
  exp2_constants
  fmov z31.s, 1.0
  fdiv z31.s, p0/m, z31.s, z24.s
\name\().row:
  mov x8, x1
  mov x9, x3
  ld1rw {z25.s}, p0/z, [x7]
  prepare_values
  cbnz w17, 6f
  subs x10, x6, 128
  b.lt 4f
  exp2_turns 1, \convert, \exact, \store
  add x8, x8, 512
  subs x10, x10, 128
  b.lt 2f
  .p2align 5
\name\().loop.e128:
3:
  exp2_turns 3, \convert, \exact, \store
  add x8, x8, 512
  add x9, x9, 128 * \width
  subs x10, x10, 128
  b.ge 3b
\name\().loop_end:
2:
  exp2_turns 2, \convert, \exact, \store
  add x9, x9, 128 * \width
4:
  adds x10, x10, 128
  b.eq 9f
  mov x11, 0
5:                              // one vector, the last one of fewer lanes
  whilelt p1.s, x11, x10
  each load_f32, 1, p1
  .if \convert
    each_convert 1
  .endif
  exp2_vectors 1, \exact, 1, 1
  each_store \store, 1, p1
  add x8, x8, 64
  add x9, x9, 16 * \width
  add x11, x11, 16
  cmp x11, x10
  b.lt 5b
  b 9f
6:
  mov x11, 0
7:                              // a row's value that is not finite, or large
  whilelt p1.s, x11, x6
  each load_f32, 1, p1
  .if \convert
    each_convert 1
  .endif
  exp2_vectors 1, \exact, 0, 1
  each_store \store, 1, p1
  add x8, x8, 64
  add x9, x9, 16 * \width
  add x11, x11, 16
  cmp x11, x6
  b.lt 7b
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

exp2_rows rows_exp2_f32_f32_sve512, 0, 4, store_f32, 1
exp2_rows rows_exp2_f32_f16_sve512, 0, 2, store_f16, 1
exp2_rows rows_exp2_i32_f32_sve512, 1, 4, store_f32, 1
exp2_rows rows_exp2_i32_f16_sve512, 1, 2, store_f16, 1
exp2_rows rows_exp2_fast_f32_f32_sve512, 0, 4, store_f32, 0
exp2_rows rows_exp2_fast_f32_f16_sve512, 0, 2, store_f16, 0
exp2_rows rows_exp2_fast_i32_f32_sve512, 1, 4, store_f32, 0
exp2_rows rows_exp2_fast_i32_f16_sve512, 1, 2, store_f16, 0
.section .note.GNU-stack, "", %progbits
#endif
