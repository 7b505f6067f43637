// SPDX-License-Identifier: Apache-2.0
// Mixed tiles of panels.h for SVE at 512 bits (A64FX): f16 operands, multiply-adds in f16 at twice the rate of f32, C in f32. Every
// k_block steps the f16 sums are widened and added to C, and start from 0 again.
//
// 24 accumulators and 12 cycles a step each, but for 8x2. They differ in the loads:
//   12x2_swp      A six rows ahead, B loaded again behind its last use
//   12x2_csplit   six rows down one column, then down the other: B is free again 12 multiply-adds before its next use
//   12x2_dswp     two sets of B, loaded a whole step ahead; A four rows ahead
//   12x2_4k       swp, four steps a turn
//   12x2_bpre     swp, B fetched to L2 4 KiB ahead
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve+fp16
#define STEP_BYTES 2
#define C_BITS 32
#include "kernels/gemm/arm_sve512_panel.inc"

.macro mac acc, b, a
  fmla z\acc\().h, p0/m, z\b\().h, z\a\().h
.endm

// Half of the f16 accumulator N, as f32 in T. p1 suffices: where a later vector has columns, it is all true. UUNPK and stores run on pipe A
// only, and the decoder sends the second and fourth of four instructions to pipe B: so conversions and additions are placed there, here and
// below (107 cycles a tile; 168 in any order, by bench/a64fx_model).
.macro widen_low_one n, t
  uunpklo z\t\().s, z\n\().h
  fcvt z\t\().s, p1/m, z\t\().h
.endm
.macro widen_high_one n, t
  uunpkhi z\t\().s, z\n\().h
  fcvt z\t\().s, p1/m, z\t\().h
.endm
.macro add_c_one n, summand, mask, column
  load_c_one \summand, \mask, \column
  fadd z\n\().s, z\n\().s, z\summand\().s
.endm
// Column vectors 0 .. 6 have p1 .. p7. Loads and stores cannot use p8 and higher, so vector 7 has p0.
.macro promote n, column, to_c
  .set t, tile_b + (\n - \n / 2 * 2) * 4
  .set mask_low, 2 * \column + 1
  .set mask_high, (2 * \column + 2) - (2 * \column + 2) / 8 * 8
  widen_low_one \n, %t
  widen_high_one \n, %(t + 1)
  .if \to_c
    add_c_one %t, %(t + 2), %mask_low, %(2 * \column)
    add_c_one %(t + 1), %(t + 3), %mask_high, %(2 * \column + 1)
  .endif
  store_c_one %t, %mask_low, %(2 * \column)
  store_c_one %(t + 1), %mask_high, %(2 * \column + 1)
.endm
.macro promote_first n, mask, column
  promote \n, \column, 0
.endm
.macro promote_more n, mask, column
  promote \n, \column, 1
.endm

.macro mixed_kernel name, unroll, pipelined
begin_function \name\()_init
  mov x7, 0
  b \name\()_tile
.size \name\()_init, . - \name\()_init
begin_function \name\()_accumulate
  mov x7, 1
\name\()_tile:
  save_registers
  .if tile_nv == 4
  panel_operands 7
  .else
  panel_operands 2 * tile_nv
  .endif
  ldr x12, [x0, 56]           // steps between promotions
  mov x13, x8                 // steps left
  mov x6, x2
1:
  cmp x13, x12
  csel x8, x13, x12, lt
  sub x13, x13, x8
  tile_zero
  tile_product \name, \unroll, \pipelined
  tile_to_next_product \pipelined
  mov x2, x6
  .if tile_nv == 4
  while_one 0, 7
  .endif
  cbz x7, 6f
  mark_piece \name\()_promote
  each_row promote_more, 1
  mark_end \name\()_promote
  b 7f
6:
  mov x7, 1
  each_row promote_first
7:
  .if tile_nv == 4
  ptrue p0.b
  .endif
  cbnz x13, 1b
  restore_registers
  ret
.size \name\()_accumulate, . - \name\()_accumulate
.endm

.text
tile_shape 12, 2, 6, 2, 2, 0
mixed_kernel panel_f16_12x2_swp_sve512, 2, 1
mixed_kernel panel_f16_12x2_4k_sve512, 4, 1
.set tile_prefetch, 4096
mixed_kernel panel_f16_12x2_bpre_sve512, 2, 1
tile_shape 12, 2, 6, 2, 2, 6
mixed_kernel panel_f16_12x2_csplit_sve512, 2, 1
tile_shape 12, 2, 4, 4, 2, 0
mixed_kernel panel_f16_12x2_dswp_sve512, 2, 1
tile_shape 8, 3, 5, 3, 2, 0
mixed_kernel panel_f16_8x3_sve512, 4, 1
tile_shape 8, 2, 8, 4, 2, 0     // the rest of a row after tiles of 96: 16 chains take 9 cycles a step, the latency
mixed_kernel panel_f16_8x2_sve512, 4, 1
tile_shape 6, 4, 4, 4, 2, 0
mixed_kernel panel_f16_6x4_sve512, 2, 1
.section .note.GNU-stack, "", %progbits
#endif
