// f32 micro-kernels for AVX-512: MR = 8 broadcasts x NR = 16, 32 or 48 lanes. Contract: gemm.h.
//
// Registers of the 8x48 tile: 24 accumulators zmm0-23 (row i, vector j: i * NV + j), B in zmm24-26, two broadcasts in turn in
// zmm27-28. A step of k is 24 FMAs (12 cycles on two pipes) and 11 loads. Assembly, because compilers fold the B loads into
// the FMAs: 24 loads + 8 broadcasts a step, bound by the load ports.
#if defined(__x86_64__) && defined(__ELF__)
.intel_syntax noprefix
.altmacro

.macro zero_one n
  vxorps xmm\n, xmm\n, xmm\n
.endm
.macro scale_load_one n, offset, scale
  vmulps zmm\n, zmm\scale, [rcx + \offset]
.endm
.macro load_b_one n, offset
  vmovups zmm\n, [r11 + \offset]
.endm
.macro load_scale_one n, offset
  vmovups zmm\n, [r9 + \offset]
.endm
.macro broadcast_one n, offset
  vbroadcastss zmm\n, dword ptr [r10 + \offset]
.endm
.macro fma_one acc, b, a
  vfmadd231ps zmm\acc, zmm\b, zmm\a
.endm
.macro max_one n, acc
  vmaxps zmm\n, zmm\acc, zmm\n
.endm
.macro store_one n, offset
  vmovups [rcx + \offset], zmm\n
.endm
.macro store_max_one n, offset
  vmovups [r9 + \offset], zmm\n
.endm

// One step of k at A offset a_off and B offset b_off (bytes).
.macro k_step nv, a_off, b_off
  .set j, 0
  .rept \nv
    load_b_one %(24 + j), %(\b_off + 64 * j)
    .set j, j + 1
  .endr
  .set i, 0
  .rept 8
    .set turn, 27 + i - (i / 2) * 2
    broadcast_one %(turn), %(\a_off + 4 * i)
    .set j, 0
    .rept \nv
      fma_one %(i * \nv + j), %(24 + j), %(turn)
      .set j, j + 1
    .endr
    .set i, i + 1
  .endr
.endm

// mode 0: init, 1: init_max, 2: accumulate
.macro gemm_kernel name, nv, mode
.globl \name
.hidden \name
.type \name, @function
.p2align 6
\name:
  mov rsi, [rdi]          // A panel
  mov rdx, [rdi + 8]      // its stride
  mov rcx, [rdi + 24]     // C
  mov rax, [rdi + 40]     // panels left
  .if \mode == 1
  mov r9, [rdi + 56]
  .elseif \mode == 2
  mov r9, [rdi + 48]
  .endif
  .p2align 4
1:
  mov r10, rsi
  mov r11, [rdi + 16]     // B
  mov r8, [rdi + 32]      // k
  .if \mode == 2
    .set j, 0
    .rept \nv
      load_scale_one %(24 + j), %(64 * j)
      .set j, j + 1
    .endr
    .set i, 0
    .rept 8
      .set j, 0
      .rept \nv
        scale_load_one %(i * \nv + j), %(64 * (i * \nv + j)), %(24 + j)
        .set j, j + 1
      .endr
      .set i, i + 1
    .endr
  .else
    .set i, 0
    .rept 8 * \nv
      zero_one %i
      .set i, i + 1
    .endr
  .endif
  sub r8, 4
  jl 3f
  .p2align 5
2:
  prefetcht0 [r10 + 1024]
  k_step \nv, 0, 0
  k_step \nv, 32, (64 * \nv)
  prefetcht0 [r10 + 1024 + 64]
  k_step \nv, 64, (128 * \nv)
  k_step \nv, 96, (192 * \nv)
  add r10, 128
  add r11, 256 * \nv
  sub r8, 4
  jge 2b
3:
  add r8, 4
  jz 5f
4:
  k_step \nv, 0, 0
  add r10, 32
  add r11, 64 * \nv
  dec r8
  jnz 4b
5:
  .set i, 0
  .rept 8 * \nv
    store_one %i, %(64 * i)
    .set i, i + 1
  .endr
  .if \mode == 1
    .set j, 0
    .rept \nv
      load_scale_one %(24 + j), %(64 * j)
      .set i, 0
      .rept 8
        max_one %(24 + j), %(i * \nv + j)
        .set i, i + 1
      .endr
      store_max_one %(24 + j), %(64 * j)
      .set j, j + 1
    .endr
  .endif
  add rsi, rdx
  add rcx, 8 * 64 * \nv
  dec rax
  jnz 1b
  vzeroupper
  ret
.size \name, . - \name
.endm

.text
gemm_kernel gemm_f32_8x16_avx512_init, 1, 0
gemm_kernel gemm_f32_8x16_avx512_init_max, 1, 1
gemm_kernel gemm_f32_8x16_avx512_accumulate, 1, 2
gemm_kernel gemm_f32_8x32_avx512_init, 2, 0
gemm_kernel gemm_f32_8x32_avx512_init_max, 2, 1
gemm_kernel gemm_f32_8x32_avx512_accumulate, 2, 2
gemm_kernel gemm_f32_8x48_avx512_init, 3, 0
gemm_kernel gemm_f32_8x48_avx512_init_max, 3, 1
gemm_kernel gemm_f32_8x48_avx512_accumulate, 3, 2
.section .note.GNU-stack, "", @progbits
#endif
