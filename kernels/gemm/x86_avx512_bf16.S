// SPDX-License-Identifier: Apache-2.0
// bf16 micro-kernels for AVX512_BF16: a lane holds two elements that are neighbours in k; a step multiplies and adds both. Twice the
// products a cycle of x86_avx512.S (Zen 5: 7.5 instructions of either kind a nanosecond).
#if defined(__x86_64__) && defined(__ELF__)
#include "kernels/gemm/x86_avx512_tile.inc"

.macro product_one acc, b, a
  vdpbf16ps zmm\acc, zmm\b, zmm\a
.endm

.text
gemm_row gemm_bf16_8x16_avx512_bf16, 1
gemm_row gemm_bf16_8x32_avx512_bf16, 2
gemm_row gemm_bf16_8x48_avx512_bf16, 3
.section .note.GNU-stack, "", @progbits
#endif
