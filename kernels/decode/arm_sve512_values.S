// SPDX-License-Identifier: Apache-2.0
// Values of decode for SVE at 512 bits (A64FX), four rows by four vectors, some keys at a constant stride:
//
//   void decode_f32_sve512_values(const ValueKeys*)          sum += weight * value
//   void decode_f32_sve512_values_and_sums(const ValueKeys*) the same, and more[row] += weight in every lane
//   void decode_f16_sve512_values(const ValueKeys*)          the first in f16
//   void decode_f16_sve512_values_and_squares(const ValueKeys*)  the same, and more[vector] += value * value
//
// g++ generates 45 to 49 instructions a key, and the core decodes four a cycle; here there are 26, and some for the lines that are fetched.
// Multiply-adds come in pairs, so that the decoder gives both pipes the same number. Bound: 9 cycles a key, the latency of 16 chains; 10
// with sums or squares. A key's weights, and each of its vectors after its last use, are loaded while the key before is multiplied.
#if defined(__aarch64__) && defined(__ELF__)
#include "kernels/decode/arm_sve512_fetch.inc"
#include "kernels/gemm/arm_sve512_tile.inc"  // begin_function, save_registers, restore_registers
.arch armv8.2-a+sve+fp16
.text

define_next_range

// x1: value, x2: bytes to the next one; x3 to x6: the rows' weights; x7: keys left; x8: lines to fetch with each key.
// z0 to z15: sums, 4 * row + vector; z16 to z19: more; z20 to z23: the value; z24 to z27 and z28 to z31: weights of even and odd keys.
.macro load_value reg, n
  .if tile_bytes == 4
    ld1w {z\reg\().s}, p0/z, [x1, \n, mul vl]
  .else
    ld1h {z\reg\().h}, p0/z, [x1, \n, mul vl]
  .endif
.endm
.macro load_weight reg, from, key
  .if tile_bytes == 4
    ld1rw {z\reg\().s}, p0/z, [x\from, 4 * (\key)]
  .else
    ld1rh {z\reg\().h}, p0/z, [x\from, 2 * (\key)]
  .endif
.endm
.macro mac sum, value, weight
  .if tile_bytes == 4
    fmla z\sum\().s, p0/m, z\value\().s, z\weight\().s
  .else
    fmla z\sum\().h, p0/m, z\value\().h, z\weight\().h
  .endif
.endm
.macro add_weight sum, weight
  fadd z\sum\().s, z\sum\().s, z\weight\().s
.endm
.macro load_sum reg, n
  ld1w {z\reg\().s}, p0/z, [x9, \n, mul vl]
.endm
.macro store_sum reg, n
  st1w {z\reg\().s}, p0, [x9, \n, mul vl]
.endm
// load_sum or store_sum for all sums.
.macro all_sums what
  ldr x9, [x0, 48]
  ldr x2, [x0, 56]
  .set row, 0
  .rept 4
    .set n, 0
    .rept 4
      \what %(4 * row + n), %n
      .set n, n + 1
    .endr
    .set row, row + 1
    .if row < 4
      add x9, x9, x2
    .endif
  .endr
  .if tile_more
    ldr x9, [x0, 64]
    .set n, 0
    .rept 4
      \what %(16 + n), %n
      .set n, n + 1
    .endr
  .endif
.endm

// Multiplies a key, vector by vector; its weights are in z(w) to z(w + 3). next: the index of the next key, counted from x3 to x6; its
// weights are loaded into z(to) to z(to + 3). 0: there is none.
.macro multiply_key w, to, next
  .if \next
    add x1, x1, x2
  .endif
  .set n, 0
  .rept 4
    mac %n, %(20 + n), \w
    mac %(4 + n), %(20 + n), %(\w + 1)
    .if \next
      load_weight %(\to + n), %(3 + n), \next
    .endif
    mac %(8 + n), %(20 + n), %(\w + 2)
    mac %(12 + n), %(20 + n), %(\w + 3)
    .if tile_more
      .if tile_bytes == 4
        add_weight %(16 + n), %(\w + n)
      .else
        mac %(16 + n), %(20 + n), %(20 + n)
      .endif
    .endif
    .if \next
      load_value %(20 + n), %n
    .endif
    .set n, n + 1
  .endr
.endm
.macro load_key w
  .set n, 0
  .rept 4
    load_value %(20 + n), %n
    load_weight %(\w + n), %(3 + n), 0
    .set n, n + 1
  .endr
.endm
.macro next_weights keys
  .set n, 3
  .rept 4
    add_bytes %n, %(tile_bytes * \keys)
    .set n, n + 1
  .endr
.endm
.macro add_bytes reg, bytes
  add x\reg, x\reg, \bytes
.endm
.macro fetch_with_key
  cbz x8, 9f
  fetch_line
9:
.endm

.macro values name, bytes, more
.set tile_bytes, \bytes
.set tile_more, \more
begin_function \name
  save_registers
  str x30, [sp, -16]!
  ptrue p0.b
  all_sums load_sum
  ldp x1, x2, [x0]
  ldp x3, x9, [x0, 16]
  ldp x7, x8, [x0, 32]
  ldr x12, [x0, 72]
  add x4, x3, x9
  add x5, x4, x9
  add x6, x5, x9
  begin_fetching
  // The last key is never one of a turn of four: what follows it must not be read.
  subs x7, x7, 5
  b.lt 3f
  load_key 24
2:
\name\().loop.t4:
  fetch_with_key
  multiply_key 24, 28, 1
  fetch_with_key
  multiply_key 28, 24, 2
  fetch_with_key
  multiply_key 24, 28, 3
  fetch_with_key
  multiply_key 28, 24, 4
  next_weights 4
  subs x7, x7, 4
  b.ge 2b
\name\().loop_end:
3:
  add x7, x7, 5
4:
  fetch_with_key
  load_key 24
  multiply_key 24, 24, 0
  add x1, x1, x2
  next_weights 1
  subs x7, x7, 1
  b.ne 4b
  end_fetching
  all_sums store_sum
  ldr x30, [sp], 16
  restore_registers
  ret
.size \name, . - \name
.endm

values decode_f32_sve512_values, 4, 0
values decode_f32_sve512_values_and_sums, 4, 1
values decode_f16_sve512_values, 2, 0
values decode_f16_sve512_values_and_squares, 2, 1
.section .note.GNU-stack, "", %progbits
#endif
