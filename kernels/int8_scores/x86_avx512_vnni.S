// SPDX-License-Identifier: Apache-2.0
// int8 tiles for AVX-512 VNNI: VPDPBUSD, four products of an unsigned and a signed byte in each lane.
#if defined(__x86_64__) && defined(__ELF__)
#include "kernels/int8_scores/x86_avx512_tile.inc"

.macro product_one acc, b, a
  vpdpbusd zmm\acc, zmm\b, zmm\a
.endm

.text
int8_tile int8_scores_avx512_vnni_tile_1, 1, 1
int8_tile int8_scores_avx512_vnni_tile_2, 2, 1
int8_tile int8_scores_avx512_vnni_tile_3, 3, 1
.section .note.GNU-stack, "", @progbits
#endif
