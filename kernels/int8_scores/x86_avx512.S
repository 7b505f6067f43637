// SPDX-License-Identifier: Apache-2.0
// int8 tiles for AVX-512 without VNNI: VPMADDWD, two products of int16 in each lane. (VPMADDUBSW would take four of bytes, but saturates
// their sums of two.)
#if defined(__x86_64__) && defined(__ELF__)
#include "kernels/int8_scores/x86_avx512_tile.inc"

.macro product_one acc, b, a
  .set through, 29 + \acc - (\acc / 3) * 3
  multiply_one %(through), \b, \a
  add_one \acc, %(through)
.endm
.macro multiply_one to, b, a
  vpmaddwd zmm\to, zmm\b, zmm\a
.endm
.macro add_one acc, term
  vpaddd zmm\acc, zmm\acc, zmm\term
.endm

.text
int8_tile int8_scores_avx512_tile_1, 1, 0
int8_tile int8_scores_avx512_tile_2, 2, 0
int8_tile int8_scores_avx512_tile_3, 3, 0
.section .note.GNU-stack, "", @progbits
#endif
