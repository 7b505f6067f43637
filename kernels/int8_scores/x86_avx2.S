// SPDX-License-Identifier: Apache-2.0
// int8 tiles for AVX2: MR = 4 broadcasts x NR = 8, 16 or 24 lanes, as gemm/x86_avx2.S has them. With AVX-VNNI a step of four dims is 12
// VPDPBUSD; without, a step of two dims is 12 VPMADDWD and 12 VPADDD, with B as a memory operand: the sums leave only four registers.
// (VPMADDUBSW would take four dims, but saturates its sums of two.)
#if defined(__x86_64__) && defined(__ELF__)
.intel_syntax noprefix
.altmacro

.macro zero_one n
  vpxor xmm\n, xmm\n, xmm\n
.endm
.macro start_one n, offset
  vpbroadcastd ymm\n, dword ptr [r10 + \offset]
.endm
.macro copy_one n, from
  vmovdqa ymm\n, ymm\from
.endm
.macro load_b_one n, offset
  vmovdqu ymm\n, [r11 + \offset]
.endm
.macro dot_one acc, b, a
  {vex} vpdpbusd ymm\acc, ymm\b, ymm\a
.endm
.macro multiply_one to, a, offset
  vpmaddwd ymm\to, ymm\a, [r11 + \offset]
.endm
.macro add_one acc, term
  vpaddd ymm\acc, ymm\acc, ymm\term
.endm
.macro load_factor_one n, offset
  vmovups ymm\n, [r11 + \offset]
.endm
.macro broadcast_factor_one n, offset
  vbroadcastss ymm\n, dword ptr [r9 + \offset]
.endm
.macro score_one acc, key, offset, factor
  vmulps ymm\factor, ymm\key, [r11 + \offset]
  vcvtdq2ps ymm\acc, ymm\acc
  vmulps ymm\acc, ymm\acc, ymm\factor
.endm
.macro store_one n, offset
  vmovups [rcx + \offset], ymm\n
.endm
.macro max_one n, acc
  vmaxps ymm\n, ymm\acc, ymm\n
.endm
.macro store_max_one n, offset
  vmovups [r11 + \offset], ymm\n
.endm

// One step at A offset a_off and B offset b_off (bytes).
.macro k_step nv, a_off, b_off, is_vnni
  .if \is_vnni
    .set j, 0
    .rept \nv
      load_b_one %(12 + j), %(\b_off + 32 * j)
      .set j, j + 1
    .endr
  .endif
  .set i, 0
  .rept 4
    start_one 15, %(\a_off + 4 * i)
    .set j, 0
    .rept \nv
      .if \is_vnni
        dot_one %(i * \nv + j), %(12 + j), 15
      .else
        multiply_one %(12 + j), 15, %(\b_off + 32 * j)
        add_one %(i * \nv + j), %(12 + j)
      .endif
      .set j, j + 1
    .endr
    .set i, i + 1
  .endr
.endm

.macro int8_tile name, nv, is_vnni
.globl \name
.hidden \name
.type \name, @function
.p2align 6
\name:
  mov rsi, [rdi]          // A panel
  mov rdx, [rdi + 8]      // its stride
  mov rcx, [rdi + 24]     // C
  mov rax, [rdi + 40]     // panels left
  mov r9, [rdi + 64]      // factors of its keys
  .p2align 4
1:
  mov r10, rsi
  mov r11, [rdi + 16]     // B
  mov r8, [rdi + 32]      // steps
  .set i, 0
  .rept 4
    .if \is_vnni
      start_one %(i * \nv), %(4 * i)
    .else
      zero_one %(i * \nv)
    .endif
    .set j, 1
    .rept \nv - 1
      copy_one %(i * \nv + j), %(i * \nv)
      .set j, j + 1
    .endr
    .set i, i + 1
  .endr
  .if \is_vnni
  add r10, 16
  .endif
  sub r8, 4
  jl 3f
  .p2align 5
2:
  k_step \nv, 0, 0, \is_vnni
  k_step \nv, 16, (32 * \nv), \is_vnni
  k_step \nv, 32, (64 * \nv), \is_vnni
  k_step \nv, 48, (96 * \nv), \is_vnni
  add r10, 64
  add r11, 128 * \nv
  sub r8, 4
  jge 2b
3:
  add r8, 4
  jz 5f
4:
  k_step \nv, 0, 0, \is_vnni
  add r10, 16
  add r11, 32 * \nv
  dec r8
  jnz 4b
5:
  mov r11, [rdi + 48]     // factors of the queries
  .set i, 0
  .rept 4
    broadcast_factor_one 15, %(4 * i)
    .set j, 0
    .rept \nv
      score_one %(i * \nv + j), 15, %(32 * j), %(12 + j)
      store_one %(i * \nv + j), %(32 * (i * \nv + j))
      .set j, j + 1
    .endr
    .set i, i + 1
  .endr
  mov r11, [rdi + 56]     // c_max, or null
  test r11, r11
  jz 6f
  .set j, 0
  .rept \nv
    load_factor_one %(12 + j), %(32 * j)
    .set i, 0
    .rept 4
      max_one %(12 + j), %(i * \nv + j)
      .set i, i + 1
    .endr
    store_max_one %(12 + j), %(32 * j)
    .set j, j + 1
  .endr
6:
  add rsi, rdx
  add r9, 16
  add rcx, 4 * 32 * \nv
  dec rax
  jnz 1b
  vzeroupper
  ret
.size \name, . - \name
.endm

.text
int8_tile int8_scores_avx2_vnni_tile_1, 1, 1
int8_tile int8_scores_avx2_vnni_tile_2, 2, 1
int8_tile int8_scores_avx2_vnni_tile_3, 3, 1
int8_tile int8_scores_avx2_tile_1, 1, 0
int8_tile int8_scores_avx2_tile_2, 2, 0
int8_tile int8_scores_avx2_tile_3, 3, 0
.section .note.GNU-stack, "", @progbits
#endif
