// SPDX-License-Identifier: Apache-2.0
// The product f16 of gemm.h for SVE at 512 bits (A64FX): a 12x2 tile with 24 accumulators, and what belongs to the whole tile, the
// factors and the maxima, done on its sums before they are stored. As passes over C they took 565 of 2100 cycles at k = 128
// (bench/a64fx_model), here 220.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/gemm/arm_sve512_tile.inc"
.arch armv8.2-a+sve+fp16
#define HALF_CHAIN 128          // kHalfChain

.macro mac acc, b, a
  fmla z\acc\().h, p0/m, z\b\().h, z\a\().h
.endm
.macro broadcast reg, row
  ld1rh {z\reg\().h}, p0/z, [x10, 2 * (\row)]
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

// Accumulator N, in row N / 2: its lower half goes to z(lower), its upper half stays; they are vectors `column` and `column` + 1 of C's
// row at x15. Pipe A alone has UUNPK and stores, and the decoder gives it the first and third of four instructions.
.macro place_of n, lower_register
  .set row, \n / 2
  .set column, 2 * (\n - row * 2)
  .set lower, \lower_register
.endm
.macro next_row n
  .if \n - \n / 2 * 2
    add x15, x15, 256
  .endif
.endm

// C = sum
.macro promote_first n
  place_of \n, 29 + \n - \n / 2 * 2
  lower_half %lower, \n
  upper_half \n
  to_f32 %lower
  to_f32 \n
  store_f32 %lower, x15, %column
  store_f32 \n, x15, %(column + 1)
  next_row \n
.endm
// C = C + sum; prescaled: C * c_scale (z24 .. z27) + sum
.macro promote_more n, prescaled
  place_of \n, 29 + \n - \n / 2 * 2
  .set c_lower, 28 + 3 * (\n - \n / 2 * 2)
  .set c_upper, \n - 1
  .if \n == 0
    .set c_upper, 30
  .endif
  lower_half %lower, \n
  load_f32 %c_lower, x15, %column
  upper_half \n
  load_f32 %c_upper, x15, %(column + 1)
  .if \prescaled
    times %c_lower, %(24 + column)
    times %c_upper, %(25 + column)
  .endif
  to_f32 %lower
  to_f32 \n
  plus %lower, %c_lower
  plus \n, %c_upper
  store_f32 %lower, x15, %column
  store_f32 \n, x15, %(column + 1)
  next_row \n
.endm
// C = sum * c_scale * row_scale. The first row's results become the maxima: z29, z0, z30, z1.
.macro promote_scaled n, max
  .if \n < 3
    place_of \n, 29 + \n
  .else
    place_of \n, \n - 1
  .endif
  .if column == 0
    row_factor 28, %row
  .endif
  lower_half %lower, \n
  to_f32 %lower
  upper_half \n
  to_f32 \n
  times %lower, %(24 + column)
  times \n, %(25 + column)
  times %lower, 28
  times \n, 28
  store_f32 %lower, x15, %column
  .if \max
    .if row > 0
      largest %(29 + column / 2), %lower
    .endif
  .endif
  store_f32 \n, x15, %(column + 1)
  .if \max
    .if row > 0
      largest %(column / 2), \n
    .endif
  .endif
  next_row \n
.endm
.macro each_accumulator what, argument
  mov x15, x2
  .set accumulator, 0
  .rept 24
    \what %accumulator, \argument
    .set accumulator, accumulator + 1
  .endr
.endm
.macro promote_plainly n, unused
  promote_first \n
.endm

// The same scales and maxima for a C that several chains have made.
.macro scale_again n, max
  .set row, \n / 2
  .set column, 2 * (\n - row * 2)
  .set first, 2 + 2 * (\n - \n / 11 * 11)
  .if column == 0
    row_factor 28, %row
  .endif
  .if row == 0
    .set first, column / 2
    load_f32 %(29 + first), x15, %column
    load_f32 %first, x15, %(column + 1)
    scale_and_store %(29 + first), %first
  .else
    load_f32 %first, x15, %column
    load_f32 %(first + 1), x15, %(column + 1)
    scale_and_store %first, %(first + 1)
    .if \max
      largest %(29 + column / 2), %first
      largest %(column / 2), %(first + 1)
    .endif
  .endif
  next_row \n
.endm
.macro scale_and_store a, b
  times \a, %(24 + column)
  times \b, %(25 + column)
  times \a, 28
  times \b, 28
  store_f32 \a, x15, %column
  store_f32 \b, x15, %(column + 1)
.endm

.macro raise_maxima
  four load_f32, 2, x9
  largest 2, 29
  largest 3, 0
  largest 4, 30
  largest 5, 1
  four store_f32, 2, x9
.endm

// mode 0: init, 1: init_max, 2: accumulate
.macro half_kernel name, mode
begin_function \name
  save_registers
  ptrue p0.b
  ldp x1, x3, [x0]            // A panel and its stride
  ldr x2, [x0, 24]            // C
  ldp x4, x5, [x0, 40]        // panels left, c_scale
  .if \mode < 2
  ldp x9, x6, [x0, 56]        // c_max, row_scale
  mov x14, 48
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
  mov x12, HALF_CHAIN
1:
  mov x10, x1
  ldr x11, [x0, 16]           // B
  ldr x13, [x0, 32]           // steps left
  mov x7, 0                   // chains done
11:
  cmp x13, x12
  csel x8, x13, x12, lt
  sub x13, x13, x8
  tile_zero
  tile_product \name, 4
  tile_to_next_product
  cbnz x7, 13f
  mov x7, 1
  .if \mode == 2
    four load_f32, 24, x5
    mark_piece \name\()_promote
    each_accumulator promote_more, 1
    mark_end \name\()_promote
  .else
    .if \mode == 0
    cbz x5, 12f
    .endif
    cbnz x13, 12f
    four load_f32, 24, x5
    mark_piece \name\()_promote
    each_accumulator promote_scaled, \mode
    mark_end \name\()_promote
    .if \mode == 1
    raise_maxima
    .endif
    b 15f
12:
    each_accumulator promote_plainly, 0
  .endif
  b 14f
13:
  each_accumulator promote_more, 0
14:
  cbnz x13, 11b
  .if \mode < 2
    .if \mode == 0
    cbz x5, 15f
    .endif
    four load_f32, 24, x5
    each_accumulator scale_again, \mode
    .if \mode == 1
    raise_maxima
    .endif
  .endif
15:
  add x1, x1, x3
  .if \mode < 2
  add x6, x6, x14
  .endif
  add x2, x2, 12 * 256
  subs x4, x4, 1
  b.ne 1b
  restore_registers
  ret
.size \name, . - \name
.endm

.text
tile_shape 12, 2, 6, 2, 2
half_kernel gemm_f16_12x64_sve512_init, 0
half_kernel gemm_f16_12x64_sve512_init_max, 1
half_kernel gemm_f16_12x64_sve512_accumulate, 2
.section .rodata
.p2align 6
half_ones:
.rept 64
  .float 1.0
.endr
.section .note.GNU-stack, "", %progbits
#endif
