// SPDX-License-Identifier: Apache-2.0
// f32 micro-kernels for AVX-512.
#if defined(__x86_64__) && defined(__ELF__)
#include "kernels/gemm/x86_avx512_tile.inc"

.macro product_one acc, b, a
  vfmadd231ps zmm\acc, zmm\b, zmm\a
.endm

.text
gemm_row gemm_f32_8x16_avx512, 1
gemm_row gemm_f32_8x32_avx512, 2
gemm_row gemm_f32_8x48_avx512, 3
gemm_transposed_row gemm_f32_8x16_avx512, 1
gemm_transposed_row gemm_f32_8x32_avx512, 2
gemm_transposed_row gemm_f32_8x48_avx512, 3
.section .note.GNU-stack, "", @progbits
#endif
