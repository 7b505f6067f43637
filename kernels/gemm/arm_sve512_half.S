// SPDX-License-Identifier: Apache-2.0
// The product f16 of gemm.h for SVE at 512 bits (A64FX): a tile of 13 rows x 2 vectors, 26 accumulators. The factors and the maxima are
// applied to the sums in registers, before they are stored: 220 cycles. As separate passes over C, with 12 rows, they took 565 of 2100
// cycles at k = 128 (bench/a64fx_model). Panels of 13 round 256 keys, or 64, 128 or 256 dims, up to 260, 65, 130 and 260 rows; panels of 12
// to 264, 72, 132 and 264. Where only 9 to 12 rows of the last panel are asked for, a tile of that height computes them from the panel of
// 13. 9 rows are 18 accumulators, the fewest with which neither pipe waits.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/gemm/arm_sve512_tile.inc"
.arch armv8.2-a+sve+fp16
#define HALF_CHAIN 128          // kHalfChain

.macro mac acc, b, a
  fmla z\acc\().h, p0/m, z\b\().h, z\a\().h
.endm
// The rows of a step are contiguous; steps are x12 bytes apart. Where values are read in place, each step has cache lines of its own, which
// no earlier load brings in: those of four steps ahead (52 cycles) are prefetched from L2.
.macro broadcast reg, row
  .set steps_on, (\row) / tile_mr
  .if steps_on > a_steps_on
    add x10, x10, x12
    prfm pldl1keep, [x10, x15]
    prfm pldl1keep, [x10, x16]
    .set a_steps_on, steps_on
  .endif
  ld1rh {z\reg\().h}, p0/z, [x10, 2 * ((\row) - steps_on * tile_mr)]
.endm
// Between two products: moves x10 and x11 to the operands of the next one.
.macro to_next_product
  add x10, x10, x12
  add x11, x11, tile_nv * 64 - 512
.endm
.macro half_shape rows
  tile_shape \rows, 2, 4, 2, 2
  .set tile_step_bytes, 0
.endm
.macro load_vector reg, index
  ld1h {z\reg\().h}, p0/z, [x11, \index - 8, mul vl]
.endm

.macro load_f32 n, base, index
  ld1w {z\n\().s}, p0/z, [\base, \index, mul vl]
.endm
.macro store_f32 n, base, index
  st1w {z\n\().s}, p0, [\base, \index, mul vl]
.endm
.macro row_factor n, row
  ld1rw {z\n\().s}, p0/z, [x6, 4 * \row]
.endm
.macro times n, factor
  fmul z\n\().s, z\n\().s, z\factor\().s
.endm
.macro plus n, summand
  fadd z\n\().s, z\n\().s, z\summand\().s
.endm
.macro largest n, other
  fmaxnm z\n\().s, p0/m, z\n\().s, z\other\().s
.endm
.macro lower_half t, n
  uunpklo z\t\().s, z\n\().h
.endm
.macro upper_half n
  uunpkhi z\n\().s, z\n\().h
.endm
.macro to_f32 n
  fcvt z\n\().s, p0/m, z\n\().h
.endm
.macro four what, first, base
  .set vector, 0
  .rept 4
    \what %(\first + vector), \base, %vector
    .set vector, vector + 1
  .endr
.endm

// Accumulator N, in row N / 2, becomes vectors `column` and `column` + 1 of C's row at x15: its lower half in another register, its upper
// half in its own. Beside the accumulators there are z26 .. z29, which hold c_scale, z30 and z31; registers are used again at once, because
// the core renames them. Only pipe A executes UUNPK and stores, and the decoder gives it the first and third of four instructions.
.macro place_of n
  .set row, \n / 2
  .set column, 2 * (\n - row * 2)
.endm
.macro next_row n
  .if \n - \n / 2 * 2
    add x15, x15, 256
  .endif
.endm

// C = sum
.macro promote_first n, unused
  place_of \n
  .set lower, 30 + \n - \n / 2 * 2
  lower_half %lower, \n
  upper_half \n
  to_f32 %lower
  to_f32 \n
  store_f32 %lower, x15, %column
  store_f32 \n, x15, %(column + 1)
  next_row \n
.endm
// C = C + sum; prescaled: C * c_scale + sum
.macro promote_more n, prescaled
  place_of \n
  .set c_upper, \n - 1
  .if \n == 0
    .set c_upper, 31
  .endif
  lower_half 30, \n
  load_f32 31, x15, %column
  upper_half \n
  .if \prescaled
    times 31, %(26 + column)
  .endif
  to_f32 30
  to_f32 \n
  plus 30, 31
  load_f32 %c_upper, x15, %(column + 1)
  .if \prescaled
    times %c_upper, %(27 + column)
  .endif
  store_f32 30, x15, %column
  plus \n, %c_upper
  store_f32 \n, x15, %(column + 1)
  next_row \n
.endm
// C = sum * c_scale * row_scale; added: (C + sum) * c_scale * row_scale. The second row's results stay in z0, z2, z1, z3 as the first
// maxima: at the first row no register is free for them.
.macro promote_scaled n, max, added
  place_of \n
  .if (\n == 2) || (\n == 3)
    .set lower, \n - 2
  .elseif \n < 5
    .set lower, 31
  .else
    .set lower, \n - 1
  .endif
  lower_half %lower, \n
  to_f32 %lower
  upper_half \n
  to_f32 \n
  .if \added
    load_f32 30, x15, %column
    plus %lower, 30
    load_f32 30, x15, %(column + 1)
    plus \n, 30
  .endif
  .if \added || (column == 0)
    row_factor 30, %row
  .endif
  times %lower, %(26 + column)
  times \n, %(27 + column)
  times %lower, 30
  times \n, 30
  store_f32 %lower, x15, %column
  .if \max
    .if row > 1
      largest %(column / 2), %lower
    .endif
  .endif
  store_f32 \n, x15, %(column + 1)
  .if \max
    .if row > 1
      largest %(2 + column / 2), \n
    .endif
  .endif
  next_row \n
.endm
.macro promote_scaled_sum n, max
  promote_scaled \n, \max, 0
.endm
.macro promote_scaled_more n, max
  promote_scaled \n, \max, 1
.endm
// The sums of a pair's first chain wait on the stack. They are added to those of the second in f16, and then widened.
#define KEPT_BYTES 1728         // 26 vectors, aligned
.macro kept_base
  add x16, sp, 512 + 63
  and x16, x16, -64
.endm
.macro keep_one i
  .if \i == 16
    add x16, x16, 1024
  .endif
  st1h {z\i\().h}, p0, [x16, \i - \i / 16 * 16 - 8, mul vl]
.endm
.macro load_kept n, i
  .if \i == 16
    add x16, x16, 1024
  .endif
  ld1h {z\n\().h}, p0/z, [x16, \i - \i / 16 * 16 - 8, mul vl]
.endm
.macro add_kept_one n, kept
  fadd z\n\().h, z\n\().h, z\kept\().h
.endm
.macro keep_sums
  kept_base
  .set accumulator, 0
  .rept tile_macs
    keep_one %accumulator
    .set accumulator, accumulator + 1
  .endr
.endm
// Zeroes by loads with no active lane. Stores use pipe A, as DUP does: after them this takes 34 cycles, with the code around it, and
// tile_zero 52. After sums are widened it would take 185 where tile_zero takes 172, because loads hold registers for longer.
.macro zero_loaded
  pfalse p1.b
  .set accumulator, 0
  .rept tile_macs
    zero_loaded_one %accumulator
    .set accumulator, accumulator + 1
  .endr
.endm
.macro zero_loaded_one n
  ld1h {z\n\().h}, p1/z, [x11]
.endm
.macro add_kept
  kept_base
  .set ahead, 0
  .rept 6
    load_kept %(26 + ahead), %ahead
    .set ahead, ahead + 1
  .endr
  .set accumulator, 0
  .rept tile_macs
    .set kept_in, 26 + accumulator - accumulator / 6 * 6
    add_kept_one %accumulator, %kept_in
    .if ahead < tile_macs
      load_kept %kept_in, %ahead
      .set ahead, ahead + 1
    .endif
    .set accumulator, accumulator + 1
  .endr
.endm
.macro each_accumulator what, argument
  mov x15, x2
  .set accumulator, 0
  .rept tile_macs
    \what %accumulator, \argument
    .set accumulator, accumulator + 1
  .endr
.endm

// Raises c_max to the maxima of all rows but the first, which are in registers, and to the first row, read from C.
.macro raise_maxima
  four load_f32, 4, x2
  four load_f32, 8, x9
  .set vector, 0
  .rept 4
    .set other, vector / 2 + 2 * (vector - vector / 2 * 2)
    largest %(4 + vector), %(8 + vector)
    largest %(4 + vector), %other
    .set vector, vector + 1
  .endr
  four store_f32, 4, x9
.endm

// Computes one panel, x1, into its rows of C, x2. mode 0: init, 1: init_max, 2: accumulate
.macro half_panel name, mode
  mov x10, x1
  ldr x11, [x0, 16]           // B
  ldr x13, [x0, 32]           // steps left
  ldr x17, [x0, 80]           // steps of the first chain
  mov x7, 0                   // chains done
10:
  tile_zero
11:
  cmp x13, x17
  csel x8, x13, x17, lt
  sub x13, x13, x8
  mov x17, HALF_CHAIN
  lsl x15, x12, 2             // the first and the last row of a step to be fetched
  add x16, x15, 2 * (tile_mr - 1)
  tile_product \name, 4
  to_next_product
  tbnz x7, 0, 18f
  cbz x13, 19f                // The last chain has no second one.
  keep_sums
  add x7, x7, 1
  zero_loaded
  b 11b
18:
  add_kept
19:
  lsr x16, x7, 1              // pairs done
  .if \mode == 2
    cbnz x16, 13f
    four load_f32, 26, x5
    mark_piece \name\()_promote
    each_accumulator promote_more, 1
    mark_end \name\()_promote
    b 14f
  .else
    cbnz x13, 12f             // More pairs follow.
    .if \mode == 0
    cbz x5, 12f
    .endif
    four load_f32, 26, x5
    cbnz x16, 16f
    mark_piece \name\()_promote
    each_accumulator promote_scaled_sum, \mode
    mark_end \name\()_promote
    b 17f
16:
    each_accumulator promote_scaled_more, \mode
17:
    .if \mode == 1
    raise_maxima
    .endif
    b 15f
12:
    cbnz x16, 13f
    each_accumulator promote_first, 0
    b 14f
  .endif
13:
  each_accumulator promote_more, 0
14:
  orr x7, x7, 1
  add x7, x7, 1
  cbnz x13, 10b
15:
.endm
// The last panel, of which only `rows` rows are computed.
.macro half_rest label, rows, suffix, mode
\label\():
  half_shape \rows
  half_panel gemm_f16_\rows\()x64_sve512_\suffix, \mode
  add sp, sp, KEPT_BYTES
  restore_registers
  ret
.endm

.macro half_kernel suffix, mode
begin_function gemm_f16_13x64_sve512_\suffix
  half_shape 13
  save_registers
  sub sp, sp, KEPT_BYTES
  ptrue p0.b
  ldp x1, x3, [x0]            // A panel and its stride
  ldr x2, [x0, 24]            // C
  ldp x4, x5, [x0, 40]        // panels left, c_scale
  ldr x12, [x0, 88]           // bytes a step of A
  mov x13, 2 * 13
  cmp x12, 0
  csel x12, x12, x13, ne
  .if \mode < 2
  ldp x9, x6, [x0, 56]        // c_max, row_scale
  mov x14, 4 * tile_mr
  cmp x6, 0
  adrp x7, half_ones
  add x7, x7, :lo12:half_ones
  csel x6, x6, x7, ne
  csel x14, x14, xzr, ne
  .endif
  .if \mode == 1
  cmp x5, 0
  csel x5, x5, x7, ne
  .endif
1:
  subs x4, x4, 1
  b.eq 21f
20:
  half_panel gemm_f16_13x64_sve512_\suffix, \mode
  cbz x4, 22f
  add x1, x1, x3
  .if \mode < 2
  add x6, x6, x14
  .endif
  add x2, x2, 256 * tile_mr
  b 1b
22:
  add sp, sp, KEPT_BYTES
  restore_registers
  ret
21:
  ldr x16, [x0, 72]           // rows of the last panel to compute; 0: all
  cmp x16, 9
  b.eq 39f
  cmp x16, 10
  b.eq 30f
  cmp x16, 11
  b.eq 31f
  cmp x16, 12
  b.ne 20b
  half_rest 32, 12, \suffix, \mode
  half_rest 31, 11, \suffix, \mode
  half_rest 30, 10, \suffix, \mode
  half_rest 39, 9, \suffix, \mode
.size gemm_f16_13x64_sve512_\suffix, . - gemm_f16_13x64_sve512_\suffix
.endm

.text
half_kernel init, 0
half_kernel init_max, 1
half_kernel accumulate, 2
.section .rodata
.p2align 6
half_ones:
.rept 64
  .float 1.0
.endr
.section .note.GNU-stack, "", %progbits
#endif
