// SPDX-License-Identifier: Apache-2.0
// f32 micro-kernels for AArch64 Advanced SIMD: MR = 8 elements of A x NR = 4, 8 or 12 lanes. Contract: gemm.h.
//
// The 8x12 tile: 24 accumulators v0-7 and v16-31 (row i, vector j: number i * NV + j; numbers from 8 on are 8 registers higher), A in v8-9
// and v10-11 in turn, B in v12-14. A step of k is 24 FMAs by element (12 cycles on two pipes) and 5 loads. Each B vector is loaded for the
// next step as soon as its 8 FMAs are issued, 16 FMAs before its use; A a whole step before. The lower halves of v8-15 are callee-saved, so
// this tile saves them; the narrower ones have their operands in v24-30.
#if defined(__aarch64__) && defined(__ELF__)
.altmacro

.macro zero_one n
  movi v\n\().4s, 0
.endm
.macro scale_load_one n, offset, scale
  ldr q\n, [x2, \offset]
  fmul v\n\().4s, v\n\().4s, v\scale\().4s
.endm
.macro load_a_pair n, m, offset
  ldp q\n, q\m, [x10, \offset]
.endm
.macro load_b_one n, offset
  ldr q\n, [x11, \offset]
.endm
.macro load_vector_one n, offset
  ldr q\n, [x9, \offset]
.endm
.macro store_vector_one n, offset
  str q\n, [x9, \offset]
.endm
.macro fma_one acc, b, a, lane
  fmla v\acc\().4s, v\b\().4s, v\a\().s[\lane]
.endm
// The larger number, or the number where the other is a quiet NaN. (FMAXNM takes +0 as larger than -0, which changes no score or sum.)
.macro max_one n, acc
  fmaxnm v\n\().4s, v\acc\().4s, v\n\().4s
.endm
.macro store_one n, offset
  str q\n, [x2, \offset]
.endm

// register_of N: sets `reg` to the register of accumulator N.
.macro register_of n
  .set reg, \n
  .if reg > 7
    .set reg, reg + 8
  .endif
.endm

// One step of k with A in buffer `turn`. Unless it is the last, it loads the next step's operands, which lie `next` steps from x10 and x11.
// tmp: the first of the operands' registers.
.macro k_step nv, tmp, turn, next, is_last
  .if \is_last == 0
    load_a_pair %(\tmp + 2 - 2 * \turn), %(\tmp + 3 - 2 * \turn), %(32 * \next)
  .endif
  .set j, 0
  .rept \nv
    .set i, 0
    .rept 8
      register_of %(i * \nv + j)
      fma_one %reg, %(\tmp + 4 + j), %(\tmp + 2 * \turn + i / 4), %(i - i / 4 * 4)
      .set i, i + 1
    .endr
    .if \is_last == 0
      load_b_one %(\tmp + 4 + j), %(16 * (\next * \nv + j))
    .endif
    .set j, j + 1
  .endr
.endm

// mode 0: init, 1: init_max, 2: accumulate
.macro gemm_kernel name, nv, tmp, mode
.global \name
.hidden \name
.type \name, STT_FUNC
.p2align 6
\name:
  .if \tmp == 8
  stp d8, d9, [sp, -64]!
  stp d10, d11, [sp, 16]
  stp d12, d13, [sp, 32]
  str d14, [sp, 48]
  .endif
  ldp x1, x3, [x0]        // A panel and its stride
  ldr x2, [x0, 24]        // C
  ldr x4, [x0, 40]        // panels left
  .if \mode == 1
  ldr x9, [x0, 56]
  .elseif \mode == 2
  ldr x9, [x0, 48]
  .endif
  .p2align 4
1:
  mov x10, x1
  ldr x11, [x0, 16]       // B
  ldr x8, [x0, 32]        // k
  .if \mode == 2
    .set j, 0
    .rept \nv
      load_vector_one %(\tmp + 4 + j), %(16 * j)
      .set j, j + 1
    .endr
    .set i, 0
    .rept 8
      .set j, 0
      .rept \nv
        register_of %(i * \nv + j)
        scale_load_one %reg, %(16 * (i * \nv + j)), %(\tmp + 4 + j)
        .set j, j + 1
      .endr
      .set i, i + 1
    .endr
  .else
    .set i, 0
    .rept 8 * \nv
      register_of %i
      zero_one %reg
      .set i, i + 1
    .endr
  .endif
  load_a_pair %(\tmp), %(\tmp + 1), 0
  .set j, 0
  .rept \nv
    load_b_one %(\tmp + 4 + j), %(16 * j)
    .set j, j + 1
  .endr
  subs x8, x8, 2
  b.le 3f
  .p2align 5
2:                        // two steps while more than two are left
  prfm pldl1keep, [x10, 1024]
  k_step \nv, \tmp, 0, 1, 0
  k_step \nv, \tmp, 1, 2, 0
  add x10, x10, 64
  add x11, x11, 32 * \nv
  subs x8, x8, 2
  b.gt 2b
3:
  b.lt 4f
  k_step \nv, \tmp, 0, 1, 0
  k_step \nv, \tmp, 1, 0, 1
  b 5f
4:
  k_step \nv, \tmp, 0, 0, 1
5:
  .set i, 0
  .rept 8 * \nv
    register_of %i
    store_one %reg, %(16 * i)
    .set i, i + 1
  .endr
  .if \mode == 1
    .set j, 0
    .rept \nv
      load_vector_one %(\tmp + 4 + j), %(16 * j)
      .set i, 0
      .rept 8
        register_of %(i * \nv + j)
        max_one %(\tmp + 4 + j), %reg
        .set i, i + 1
      .endr
      store_vector_one %(\tmp + 4 + j), %(16 * j)
      .set j, j + 1
    .endr
  .endif
  add x1, x1, x3
  add x2, x2, 8 * 16 * \nv
  subs x4, x4, 1
  b.ne 1b
  .if \tmp == 8
  ldr d14, [sp, 48]
  ldp d12, d13, [sp, 32]
  ldp d10, d11, [sp, 16]
  ldp d8, d9, [sp], 64
  .endif
  ret
.size \name, . - \name
.endm

.text
gemm_kernel gemm_f32_8x4_neon_init, 1, 24, 0
gemm_kernel gemm_f32_8x4_neon_init_max, 1, 24, 1
gemm_kernel gemm_f32_8x4_neon_accumulate, 1, 24, 2
gemm_kernel gemm_f32_8x8_neon_init, 2, 24, 0
gemm_kernel gemm_f32_8x8_neon_init_max, 2, 24, 1
gemm_kernel gemm_f32_8x8_neon_accumulate, 2, 24, 2
gemm_kernel gemm_f32_8x12_neon_init, 3, 8, 0
gemm_kernel gemm_f32_8x12_neon_init_max, 3, 8, 1
gemm_kernel gemm_f32_8x12_neon_accumulate, 3, 8, 2
.section .note.GNU-stack, "", %progbits
#endif
