// SPDX-License-Identifier: Apache-2.0
// Loops over the keys of a tile of softmax.h for SVE at 512 bits (A64FX), its queries in 3 or 4 vectors:
//
//   void softmax_f32_3_sve512_exponentiate(float* s, int64_t keys, const float* shift, float* sum)
//        s = 2^(s - shift), sum += s
//   void softmax_f16_4_sve512_exponentiate(float* s, int64_t keys, const float* least, uint32_t* sum)
//        least [2][64]: B - 29, then kHalfFexpaShift - B. p = 2^(max(s, B - 29) - B + 15) rounded to f16 in the place of the first scores;
//        sum += the bits of p + 2^15 as f32
//   void softmax_f16_4_sve512_scale(f16* p, int64_t fours, const int16_t* exponent, f16* found)
//        p * 2^exponent of 4 keys at a time, in place; found += the products of two keys' p [2][64]
//   void softmax_f16_4_sve512_round(float* s, int64_t keys, const int32_t* exponent)
//        s * 2^exponent, 0 where it is below 2^-14, rounded to f16 in the place of the first scores
//
// An exponential is a chain of 105 cycles that takes 13 slots of the two pipes (6.5 cycles); for f16, 95 cycles and 11 slots. So 16 of them
// must be in flight, and the core's window of 128 instructions holds 9. Therefore the loops are software-pipelined. In the compiler's
// order, with any tuning option, they take 1.7 times as long (bench/a64fx_model, a key of 3 vectors: 31 cycles, here 17).
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/gemm/arm_sve512_tile.inc"  // begin_function, save_registers, restore_registers
.arch armv8.2-a+sve+fp16
.text

.macro constant reg, bits
  mov w16, (\bits) & 0xffff
  movk w16, (\bits) >> 16, lsl 16
  dup z\reg\().s, w16
.endm

// pipeline what, K, AT: stage K of vector 0 is in turn AT, of vector i 4 turns after that of vector i - 1. All vectors of a group begin in
// 4 * tile_group turns. parts 1: the stages before the next group begins; 2: the stages after that; 3: those of both, the last stages of a
// group beside the first of the next. x8 is at the next group's scores, x9 at its results, less tile_bias vectors: immediates reach vectors
// -8 to 7. A group is a whole number of keys. The turns of the stages were found by trial, with the model.
.macro pipeline what, k, at
  .set phase, turn + 4 * tile_group - \at
  .set phase, phase - phase / (4 * tile_group) * (4 * tile_group)
  .if (phase - phase / 4 * 4) == 0
    .if (\at + phase) < (4 * tile_group)
      .if parts != 2
        \what \k, %(phase / 4), %(phase / 4 + tile_bias)
      .endif
    .elseif parts != 1
      \what \k, %(phase / 4), %(phase / 4 + tile_bias - tile_group)
    .endif
  .endif
.endm

// Vector I: scores in z(I), 2^n and the result in z(tile_group + I), n in z(tile_n), the polynomial in z(tile_t ..). A register is reused
// after 4 * tile_group turns (scores and results), 4 (n) or 4 * tile_between (the polynomial).
.macro exponential k, i, place
  .set vector, \i - \i / tile_nv * tile_nv
  .set result, tile_group + \i
  .set between, tile_t + \i - \i / tile_between * tile_between
  .if \k == 0
    load_score \i, %(\i - 4)
  .elseif \k == 1
    subtract \i, \i, %(tile_operand + vector)
  .elseif \k == 2
    raise \i, %(tile_constants + 1)
  .elseif \k == 3
    sum_of %result, \i, %tile_constants
  .elseif \k == 4
    subtract %tile_n, %result, %tile_constants
  .elseif \k == 5
    subtract \i, \i, %tile_n
  .elseif \k == 6
    polynomial %between, \i, %(tile_constants + 2), %(tile_constants + 3)
  .elseif \k == 7
    product %between, %between, \i
  .elseif \k == 8
    exponent %result
  .elseif \k == 9
    multiply_add %result, %result, %between
  .elseif \k == 10
    store_score %result, \place
  .elseif \k == 11
    sum_of %(tile_sum + vector), %(tile_sum + vector), %result
  .endif
.endm

// The same for f16: the score in z(I), 2^n and the result in z(tile_group + I), n in z(tile_n). The addition that rounds to 64ths also
// subtracts the reference, and the polynomial has the first degree only: it is off by 2^-16, and rounding to f16 by 2^-12.
.macro half_exponential k, i, place
  .set vector, \i - \i / tile_nv * tile_nv
  .set result, tile_group + \i
  .if \k == 0
    load_score \i, %(\i - 4)
  .elseif \k == 1
    raise \i, %(tile_operand + vector)
  .elseif \k == 2
    sum_of %result, \i, %(tile_shift + vector)
  .elseif \k == 3
    subtract %tile_n, %result, %(tile_shift + vector)
  .elseif \k == 4
    subtract \i, \i, %tile_n
  .elseif \k == 5
    product \i, \i, %tile_constants
  .elseif \k == 6
    exponent %result
  .elseif \k == 7
    multiply_add %result, %result, \i
  .elseif \k == 8
    sum_of \i, %result, %(tile_constants + 1)
  .elseif \k == 9
    add_whole %(tile_sum + vector), \i
  .elseif \k == 10
    narrow %result
  .elseif \k == 11
    store_half %result, \place
  .endif
.endm

// A weight in z(I). Multiplied by 2^-112, a weight below 2^-14 is a subnormal f32, which counts as 0.
.macro weight k, i, place
  .set vector, \i - \i / tile_nv * tile_nv
  .if \k == 0
    load_score \i, %(\i - 4)
  .elseif \k == 1
    power \i, %(tile_operand + vector)
  .elseif \k == 2
    product \i, \i, %tile_constants
  .elseif \k == 3
    narrow \i
  .elseif \k == 4
    store_half \i, \place
  .endif
.endm

.macro load_score n, index
  ld1w {z\n\().s}, p0/z, [x8, \index, mul vl]
.endm
.macro store_score n, index
  st1w {z\n\().s}, p0, [x9, \index, mul vl]
.endm
.macro store_half n, index
  st1h {z\n\().s}, p0, [x9, \index, mul vl]
.endm
.macro subtract to, a, b
  fsub z\to\().s, z\a\().s, z\b\().s
.endm
.macro sum_of to, a, b
  fadd z\to\().s, z\a\().s, z\b\().s
.endm
.macro product to, a, b
  fmul z\to\().s, z\a\().s, z\b\().s
.endm
.macro multiply_add to, a, b
  fmla z\to\().s, p0/m, z\a\().s, z\b\().s
.endm
.macro raise n, lowest
  fmax z\n\().s, p0/m, z\n\().s, z\lowest\().s
.endm
.macro polynomial to, x, c0, c1
  movprfx z\to, z\c0
  fmla z\to\().s, p0/m, z\x\().s, z\c1\().s
.endm
.macro exponent n
  fexpa z\n\().s, z\n\().s
.endm
.macro add_whole sum, n
  add z\sum\().s, z\sum\().s, z\n\().s
.endm
.macro power n, exponents
  fscale z\n\().s, p0/m, z\n\().s, z\exponents\().s
.endm
.macro narrow n
  fcvt z\n\().h, p0/m, z\n\().s
.endm
.macro load_operand n, base, index
  ld1w {z\n\().s}, p0/z, [\base, \index, mul vl]
.endm
.macro store_operand n, base, index
  st1w {z\n\().s}, p0, [\base, \index, mul vl]
.endm
.macro operands what, base, first
  .set vector, 0
  .rept tile_nv
    \what %(\first + vector), \base, %vector
    .set vector, vector + 1
  .endr
.endm

// One key by itself: the last keys, which do not fill a group.
.macro one_key what, stages
  .set alone, 0
  .rept tile_nv
    .set stage, 0
    .rept \stages
      \what %stage, %alone, %(alone + tile_bias)
      .set stage, stage + 1
    .endr
    .set alone, alone + 1
  .endr
.endm

.macro begin_loop name, elements
\name\().loop.e\elements\():
.endm
// tile_keys name, keys, what, stages, turns, bytes: a function's loop over groups of `keys` keys; a result vector has `bytes` bytes.
.macro tile_keys name, keys, what, stages, turns, bytes
  operands load_operand, x2, tile_operand
  .if tile_shift
    add x2, x2, 64 * tile_nv
    operands load_operand, x2, tile_shift
  .endif
  .if tile_sum
    operands load_operand, x3, tile_sum
  .endif
  add x8, x0, 256
  sub x9, x0, tile_bias * \bytes
  subs x1, x1, \keys
  b.lt 4f
  \turns 1
  add x8, x8, 64 * tile_group
  add x9, x9, \bytes * tile_group
  subs x1, x1, \keys
  b.lt 2f
  .p2align 5
  begin_loop \name, %(16 * tile_group)
3:
  \turns 3
  add x8, x8, 64 * tile_group
  add x9, x9, \bytes * tile_group
  subs x1, x1, \keys
  b.ge 3b
\name\().loop_end:
2:
  \turns 2
4:
  adds x1, x1, \keys
  b.eq 9f
5:
  one_key \what, \stages
  add x8, x8, 64 * tile_nv
  add x9, x9, \bytes * tile_nv
  subs x1, x1, 1
  b.ne 5b
9:
  .if tile_sum
    operands store_operand, x3, tile_sum
  .endif
  restore_registers
  ret
.size \name, . - \name
.endm

.macro exponential_constants
  constant %tile_constants, 0x48401fc0        // kFexpaShift, 0x1.803f8p+17
  constant %(tile_constants + 1), 0xc2fe0000  // kFexpaLowest, -127
  constant %(tile_constants + 2), 0x3f317242  // 0x1.62e485p-1, rounded to f32
  constant %(tile_constants + 3), 0x3e75fdf0  // 0x1.ebfbe0p-3
.endm
// tile: vectors, vectors a group, registers for polynomials.
.macro tile nv, group, between
  .set tile_nv, \nv
  .set tile_group, \group
  .set tile_between, \between
  .set tile_n, 2 * \group
  .set tile_t, 2 * \group + 1
  .set tile_constants, 2 * \group + 1 + \between
  .set tile_operand, tile_constants + 4
  .set tile_sum, tile_operand + \nv
  .set tile_shift, 0             // 0: none
  .set tile_bias, 0
.endm

.macro turns_of_f32 which
  .set parts, \which
  .set turn, 0
  .rept 4 * tile_group
    pipeline exponential, 11, 39
    pipeline exponential, 10, 39
    pipeline exponential, 9, 34
    pipeline exponential, 8, 32
    pipeline exponential, 7, 30
    pipeline exponential, 6, 25
    pipeline exponential, 5, 19
    pipeline exponential, 4, 15
    pipeline exponential, 3, 14
    pipeline exponential, 2, 11
    pipeline exponential, 1, 4
    pipeline exponential, 0, 0
    .set turn, turn + 1
  .endr
.endm
tile 3, 9, 3
.set tile_bias, 5               // all results of a group are stored in part 2
begin_function softmax_f32_3_sve512_exponentiate
  save_registers
  ptrue p0.s
  exponential_constants
  tile_keys softmax_f32_3_sve512_exponentiate, 3, exponential, 12, turns_of_f32, 64

.macro turns_of_f16 which
  .set parts, \which
  .set turn, 0
  .rept 4 * tile_group
    pipeline half_exponential, 11, 34
    pipeline half_exponential, 10, 30
    pipeline half_exponential, 9, 32
    pipeline half_exponential, 8, 26
    pipeline half_exponential, 7, 24
    pipeline half_exponential, 6, 21
    pipeline half_exponential, 5, 17
    pipeline half_exponential, 4, 11
    pipeline half_exponential, 3, 10
    pipeline half_exponential, 2, 5
    pipeline half_exponential, 1, 1
    pipeline half_exponential, 0, 0
    .set turn, turn + 1
  .endr
.endm
tile 4, 8, 0
.set tile_constants, 17
.set tile_operand, 19
.set tile_sum, 23
.set tile_shift, 27
begin_function softmax_f16_4_sve512_exponentiate
  save_registers
  ptrue p0.s
  constant 17, 0x3f317218                     // kHalfFexpaPoly, 0x1.62e430p-1
  constant 18, 0x47000000                     // kHalfSumShift, 2^15
  tile_keys softmax_f16_4_sve512_exponentiate, 2, half_exponential, 12, turns_of_f16, 32

// Bound by loads and stores. The compiler's code, which copies vectors before it scales them, takes 19 cycles a turn.
.macro eight what, from
  .set vector, 0
  .rept 8
    \what %vector, %(\from + vector - vector / 2 * 2)
    .set vector, vector + 1
  .endr
.endm
.macro load_weights n, unused
  ld1h {z\n\().h}, p0/z, [x0, \n, mul vl]
.endm
.macro scale_weights n, exponents
  fscale z\n\().h, p0/m, z\n\().h, z\exponents\().h
.endm
.macro store_weights n, unused
  st1h {z\n\().h}, p0, [x0, \n, mul vl]
.endm
begin_function softmax_f16_4_sve512_scale
  ptrue p0.h
  ld1h {z16.h}, p0/z, [x2]
  ld1h {z17.h}, p0/z, [x2, 1, mul vl]
  ld1h {z18.h}, p0/z, [x3]
  ld1h {z19.h}, p0/z, [x3, 1, mul vl]
  ld1h {z20.h}, p0/z, [x3, 2, mul vl]
  ld1h {z21.h}, p0/z, [x3, 3, mul vl]
softmax_f16_4_sve512_scale.loop.e256:
1:
  eight load_weights, 0
  fmla z18.h, p0/m, z0.h, z2.h
  fmla z19.h, p0/m, z1.h, z3.h
  fmla z20.h, p0/m, z4.h, z6.h
  fmla z21.h, p0/m, z5.h, z7.h
  eight scale_weights, 16
  eight store_weights, 0
  add x0, x0, 512
  subs x1, x1, 1
  b.ne 1b
softmax_f16_4_sve512_scale.loop_end:
  st1h {z18.h}, p0, [x3]
  st1h {z19.h}, p0, [x3, 1, mul vl]
  st1h {z20.h}, p0, [x3, 2, mul vl]
  st1h {z21.h}, p0, [x3, 3, mul vl]
  ret
.size softmax_f16_4_sve512_scale, . - softmax_f16_4_sve512_scale

.macro turns_of_weights which
  .set parts, \which
  .set turn, 0
  .rept 4 * tile_group
    pipeline weight, 4, 30
    pipeline weight, 3, 23
    pipeline weight, 2, 15
    pipeline weight, 1, 8
    pipeline weight, 0, 0
    .set turn, turn + 1
  .endr
.endm
tile 4, 8, 0
.set tile_constants, 24
.set tile_operand, 8
.set tile_sum, 0
begin_function softmax_f16_4_sve512_round
  save_registers
  ptrue p0.s
  constant 24, 0x77800000                     // 2^112; the exponents are 112 less
  tile_keys softmax_f16_4_sve512_round, 2, weight, 5, turns_of_weights, 32
.section .note.GNU-stack, "", %progbits
#endif
