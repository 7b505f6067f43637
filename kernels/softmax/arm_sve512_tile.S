// SPDX-License-Identifier: Apache-2.0
// Loops over the keys of a tile of softmax.h for SVE at 512 bits (A64FX), its queries in 3 or 4 vectors:
//
//   void softmax_<tile>_sve512_exponentiate(float* s, int64_t keys, const float* shift, T* sum)
//        s = 2^(s - shift), sum += s in f32 (4 vectors: s = 2^(s - shift + 16), sum += s cut to a whole number, in u32)
//   void softmax_f16_4_sve512_round(float* s, int64_t keys, const float* factor, float* sum)
//        s * factor, 0 where it is below 2^-14, rounded to f16 in the place of the first scores; sum += that
//   void softmax_f16_4_sve512_round_alone(float* s, int64_t keys, const float* factor)
//        the same without the sum
//
// An exponential is a chain of 105 cycles on 13 slots of the two pipes (6.5 cycles): 16 of them have to be in flight, and the core's 128
// instructions are 9. So the loops are software pipelines. In the compiler's order they take 1.7 times as long, in its order of any tuning
// (bench/a64fx_model, a key of 4 vectors: 49 cycles, here 29; of 3 vectors 31 and 17; rounding 25 and 14).
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
// 4 * tile_group turns. parts 1: stages before the next group begins, 2: those after, beside which are the first of the next group in 3.
// x8 is at the next group's scores, x9 at its results, less tile_bias vectors: immediates reach vectors -8 to 7.
// Vectors a group are a whole number of keys. Places of stages were found by trying, with the models.
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

// Vector I: scores in z(I), 2^n and the result in z(tile_group + I), n in z(tile_n), the polynomial in z(tile_t ..). A register is used
// again after so many turns: scores and results 4 * tile_group, n 4, the polynomial 4 * tile_between.
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
    .if tile_nv == 4
      to_whole \i, %result
    .else
      sum_of %(tile_sum + vector), %(tile_sum + vector), %result
    .endif
  .elseif \k == 12
    add_whole %(tile_sum + vector), \i
  .endif
.endm

// A probability in z(I) rounded in z(tile_group * 2 + I). Bits of what is not negative are in order, and those of a NaN above all others.
.macro probability k, i, place
  .set vector, \i - \i / tile_nv * tile_nv
  .set mask, 1 + \i - \i / 7 * 7
  .set rounded, 2 * tile_group + \i
  .if \k == 0
    load_score \i, %(\i - 4)
  .elseif \k == 1
    product \i, \i, %(tile_operand + vector)
  .elseif \k == 2
    is_kept %mask, \i, %tile_constants
  .elseif \k == 3
    narrow_kept %rounded, %mask, \i
  .elseif \k == 4
    store_half %rounded, \place
  .elseif \k == 5
    widen %rounded
  .elseif \k == 6
    sum_of %(tile_sum + vector), %(tile_sum + vector), %rounded
  .endif
.endm
// The same of what may be negative, without a sum.
.macro weight k, i, place
  .set vector, \i - \i / tile_nv * tile_nv
  .set mask, 1 + \i - \i / 7 * 7
  .if \k == 0
    load_score \i, %(\i - 4)
  .elseif \k == 1
    product \i, \i, %(tile_operand + vector)
  .elseif \k == 2
    is_less %mask, \i, %tile_constants
  .elseif \k == 3
    choose \i, %mask, %(tile_constants + 1)
  .elseif \k == 4
    narrow \i
  .elseif \k == 5
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
.macro to_whole to, n
  fcvtzu z\to\().s, p0/m, z\n\().s
.endm
.macro add_whole sum, n
  add z\sum\().s, z\sum\().s, z\n\().s
.endm
.macro is_kept mask, n, least
  cmphs p\mask\().s, p0/z, z\n\().s, z\least\().s
.endm
.macro narrow_kept to, mask, n
  movprfx z\to\().s, p\mask\()/z, z\n\().s
  fcvt z\to\().h, p\mask\()/m, z\n\().s
.endm
.macro is_less mask, n, least
  facgt p\mask\().s, p0/z, z\least\().s, z\n\().s
.endm
.macro choose n, mask, zero
  sel z\n\().s, p\mask, z\zero\().s, z\n\().s
.endm
.macro narrow n
  fcvt z\n\().h, p0/m, z\n\().s
.endm
.macro widen n
  fcvt z\n\().s, p0/m, z\n\().h
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

// A key alone: the last ones that make no group.
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
// tile_keys name, keys, what, stages, turns, bytes: the function, of `keys` keys a group; `bytes` of a vector stored.
.macro tile_keys name, keys, what, stages, turns, bytes
  operands load_operand, x2, tile_operand
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

.macro exponential_constants shift
  constant %tile_constants, \shift            // kFexpaShift, 0x1.803f8p+17; 16 more for 2^16 times the result
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
.set tile_bias, 5               // all its results are stored in part 2
begin_function softmax_f32_3_sve512_exponentiate
  save_registers
  ptrue p0.s
  exponential_constants 0x48401fc0
  tile_keys softmax_f32_3_sve512_exponentiate, 3, exponential, 12, turns_of_f32, 64

.macro turns_of_f16 which
  .set parts, \which
  .set turn, 0
  .rept 4 * tile_group
    pipeline exponential, 12, 32
    pipeline exponential, 11, 28
    pipeline exponential, 10, 29
    pipeline exponential, 9, 25
    pipeline exponential, 8, 18
    pipeline exponential, 7, 20
    pipeline exponential, 6, 18
    pipeline exponential, 5, 14
    pipeline exponential, 4, 11
    pipeline exponential, 3, 10
    pipeline exponential, 2, 9
    pipeline exponential, 1, 4
    pipeline exponential, 0, 0
    .set turn, turn + 1
  .endr
.endm
tile 4, 8, 2
begin_function softmax_f16_4_sve512_exponentiate
  save_registers
  ptrue p0.s
  exponential_constants 0x484023c0
  tile_keys softmax_f16_4_sve512_exponentiate, 2, exponential, 13, turns_of_f16, 64

.macro turns_of_probabilities which
  .set parts, \which
  .set turn, 0
  .rept 4 * tile_group
    pipeline probability, 6, 31
    pipeline probability, 5, 23
    pipeline probability, 4, 19
    pipeline probability, 3, 17
    pipeline probability, 2, 14
    pipeline probability, 1, 6
    pipeline probability, 0, 0
    .set turn, turn + 1
  .endr
.endm
tile 4, 8, 0
.set tile_constants, 24
.set tile_operand, 8
.set tile_sum, 12                // 0: none
begin_function softmax_f16_4_sve512_round
  save_registers
  ptrue p0.s
  constant 24, 0x38800000                     // kHalfLeastWeight
  tile_keys softmax_f16_4_sve512_round, 2, probability, 7, turns_of_probabilities, 32

.macro turns_of_weights which
  .set parts, \which
  .set turn, 0
  .rept 4 * tile_group
    pipeline weight, 5, 30
    pipeline weight, 4, 24
    pipeline weight, 3, 20
    pipeline weight, 2, 18
    pipeline weight, 1, 8
    pipeline weight, 0, 0
    .set turn, turn + 1
  .endr
.endm
.set tile_sum, 0
begin_function softmax_f16_4_sve512_round_alone
  save_registers
  ptrue p0.s
  constant 24, 0x38800000
  constant 25, 0
  tile_keys softmax_f16_4_sve512_round_alone, 2, weight, 6, turns_of_weights, 32
.section .note.GNU-stack, "", %progbits
#endif
