// SPDX-License-Identifier: Apache-2.0
// f32 micro-kernels for AVX2 + FMA: MR = 4 broadcasts x NR = 8, 16 or 24 lanes. Contract: gemm.h.
//
// The 4x24 tile uses all 16 registers: 12 accumulators ymm0-11 (row i, vector j: i * NV + j), B in ymm12-14, the broadcast in ymm15. A step
// of k is 12 FMAs (6 cycles on two pipes) and 7 loads. Assembly, because compilers fold the B loads into the FMAs (12 loads + 4 broadcasts
// a step): 0.64 of peak as intrinsics with g++ 12 against 0.85 (Zen 3, D = 128).
#if defined(__x86_64__) && defined(__ELF__)
.intel_syntax noprefix
.altmacro

.macro zero_one n
  vxorps xmm\n, xmm\n, xmm\n
.endm
.macro scale_load_one n, offset, scale
  vmulps ymm\n, ymm\scale, [rcx + \offset]
.endm
.macro load_b_one n, offset
  vmovups ymm\n, [r11 + \offset]
.endm
.macro load_scale_one n, offset
  vmovups ymm\n, [r9 + \offset]
.endm
.macro broadcast_one n, offset
  vbroadcastss ymm\n, dword ptr [r10 + \offset]
.endm
.macro fma_one acc, b, a
  vfmadd231ps ymm\acc, ymm\b, ymm\a
.endm
.macro max_one n, acc
  vmaxps ymm\n, ymm\acc, ymm\n
.endm
.macro store_one n, offset
  vmovups [rcx + \offset], ymm\n
.endm
.macro store_max_one n, offset
  vmovups [r9 + \offset], ymm\n
.endm

// One step of k at A offset a_off and B offset b_off (bytes); a_row: bytes between its elements of A.
.macro k_step nv, a_off, b_off, a_row=4
  .set j, 0
  .rept \nv
    load_b_one %(12 + j), %(\b_off + 32 * j)
    .set j, j + 1
  .endr
  .set i, 0
  .rept 4
    broadcast_one 15, %(\a_off + \a_row * i)
    .set j, 0
    .rept \nv
      fma_one %(i * \nv + j), %(12 + j), 15
      .set j, j + 1
    .endr
    .set i, i + 1
  .endr
.endm

// The steps of a transposed A: blocks of 4, in which the elements of a row are neighbours. A block's line lies rdx apart from the next
// block's, where no hardware prefetcher follows, so it is fetched four blocks (96 cycles) ahead.
.macro transposed_steps nv
  sub r8, 4
  jl 3f
  .p2align 5
2:
  prefetcht0 [r10 + rdx * 4]
  k_step \nv, 0, 0, 16
  k_step \nv, 4, (32 * \nv), 16
  k_step \nv, 8, (64 * \nv), 16
  k_step \nv, 12, (96 * \nv), 16
  add r10, rdx
  add r11, 128 * \nv
  sub r8, 4
  jge 2b
3:
  add r8, 4
  jz 5f
4:
  k_step \nv, 0, 0, 16
  add r10, 4
  add r11, 32 * \nv
  dec r8
  jnz 4b
.endm

// mode 0: init, 1: init_max, 2: accumulate, 3: init of a transposed A, 4: accumulate of one
.macro gemm_kernel name, nv, mode
.globl \name
.hidden \name
.type \name, @function
.p2align 6
\name:
  mov rsi, [rdi]          // A panel
  mov rdx, [rdi + 8]      // its stride; that of blocks of 4 steps if A is transposed
  mov rcx, [rdi + 24]     // C
  mov rax, [rdi + 40]     // panels left
  .if \mode == 1
  mov r9, [rdi + 56]
  .elseif \mode == 2 || \mode == 4
  mov r9, [rdi + 48]
  .endif
  .p2align 4
1:
  mov r10, rsi
  mov r11, [rdi + 16]     // B
  mov r8, [rdi + 32]      // k
  .if \mode == 2 || \mode == 4
    .set j, 0
    .rept \nv
      load_scale_one %(12 + j), %(32 * j)
      .set j, j + 1
    .endr
    .set i, 0
    .rept 4
      .set j, 0
      .rept \nv
        scale_load_one %(i * \nv + j), %(32 * (i * \nv + j)), %(12 + j)
        .set j, j + 1
      .endr
      .set i, i + 1
    .endr
  .else
    .set i, 0
    .rept 4 * \nv
      zero_one %i
      .set i, i + 1
    .endr
  .endif
  .if \mode >= 3
  transposed_steps \nv
  .else
  sub r8, 4
  jl 3f
  .p2align 5
2:
  prefetcht0 [r10 + 4096]
  k_step \nv, 0, 0
  k_step \nv, 16, (32 * \nv)
  k_step \nv, 32, (64 * \nv)
  k_step \nv, 48, (96 * \nv)
  add r10, 64
  add r11, 128 * \nv
  sub r8, 4
  jge 2b
3:
  add r8, 4
  jz 5f
4:
  k_step \nv, 0, 0
  add r10, 16
  add r11, 32 * \nv
  dec r8
  jnz 4b
  .endif
5:
  .set i, 0
  .rept 4 * \nv
    store_one %i, %(32 * i)
    .set i, i + 1
  .endr
  .if \mode == 1
    .set j, 0
    .rept \nv
      load_scale_one %(12 + j), %(32 * j)
      .set i, 0
      .rept 4
        max_one %(12 + j), %(i * \nv + j)
        .set i, i + 1
      .endr
      store_max_one %(12 + j), %(32 * j)
      .set j, j + 1
    .endr
  .endif
  .if \mode >= 3
  add rsi, 4 * 16
  .else
  add rsi, rdx
  .endif
  add rcx, 4 * 32 * \nv
  dec rax
  jnz 1b
  vzeroupper
  ret
.size \name, . - \name
.endm

.text
gemm_kernel gemm_f32_4x8_avx2_init, 1, 0
gemm_kernel gemm_f32_4x8_avx2_init_max, 1, 1
gemm_kernel gemm_f32_4x8_avx2_accumulate, 1, 2
gemm_kernel gemm_f32_4x16_avx2_init, 2, 0
gemm_kernel gemm_f32_4x16_avx2_init_max, 2, 1
gemm_kernel gemm_f32_4x16_avx2_accumulate, 2, 2
gemm_kernel gemm_f32_4x24_avx2_init, 3, 0
gemm_kernel gemm_f32_4x24_avx2_init_max, 3, 1
gemm_kernel gemm_f32_4x24_avx2_accumulate, 3, 2
gemm_kernel gemm_f32_4x8_avx2_init_transposed, 1, 3
gemm_kernel gemm_f32_4x8_avx2_accumulate_transposed, 1, 4
gemm_kernel gemm_f32_4x16_avx2_init_transposed, 2, 3
gemm_kernel gemm_f32_4x16_avx2_accumulate_transposed, 2, 4
gemm_kernel gemm_f32_4x24_avx2_init_transposed, 3, 3
gemm_kernel gemm_f32_4x24_avx2_accumulate_transposed, 3, 4
.section .note.GNU-stack, "", @progbits
#endif
