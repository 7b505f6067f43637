// SPDX-License-Identifier: Apache-2.0
// V panels for SVE at 512 bits (A64FX): 8 dims of a key are half a vector, so that two keys fill one. Contract: PackValueArgs in pack.h.
//
// Each panel takes two loads, of keys j and j + 1, one of them at an address 8 elements lower or higher. The other lanes are masked off, so
// nothing is read there. A selection joins the halves, and a whole vector is stored: for 32 elements 2 stores, where halves would take 4,
// all of them on one pipe.
//
// x * 0 is NaN for an infinity or a NaN and stays NaN in the sum: sums in z24 to z31, eight of them because a multiply-add takes 9 cycles.
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve+fp16
.altmacro

.macro load_f32 i, mask, address
  ld1w {z\i\().s}, \mask\()/z, [\address]
.endm
.macro load_f16 i, mask, address
  ld1h {z\i\().s}, \mask\()/z, [\address]
  fcvt z\i\().s, \mask\()/m, z\i\().h
.endm
.macro load_bf16 i, mask, address
  ld1h {z\i\().s}, \mask\()/z, [\address]
  lsl z\i\().s, z\i\().s, 16
.endm

// Keys at x7 and x11 = x7 + x2, to z(i) and z(i + 2).
.macro two_keys load, half, i, sum
  prfm pldl1keep, [x7, x14]
  prfm pldl1keep, [x11, x14]
  \load %(\i), p3, x7
  \load %(\i + 3), p3, x11
  add x12, x7, \half
  sub x13, x11, \half
  \load %(\i + 2), p5, x12
  \load %(\i + 1), p4, x13
  add x7, x11, x2
  add x11, x7, x2
  join %(\i), %(\i + 1), %(\sum)
  join %(\i + 2), %(\i + 3), %(\sum + 1)
.endm
.macro join low, high, sum
  sel z\low\().s, p1, z\low\().s, z\high\().s
  fmla z\sum\().s, p0/m, z\low\().s, z23.s
.endm
.macro store_two i, place
  st1w {z\i\().s}, p0, [x9, \place, mul vl]
  store_high %(\i + 2), \place
.endm
.macro store_high i, place
  st1w {z\i\().s}, p6, [x10, \place, mul vl]
.endm
.macro clear i
  dup z\i\().s, 0
.endm

// shift: log2 of an element's bytes; half, whole: bytes of 8 and 16 elements
.macro pack_value name, load, shift, half, whole
  .global \name
  .hidden \name
  .type \name, STT_FUNC
  .p2align 6
\name:
  ldp x1, x2, [x0]              // source, its stride
  ldp x3, x4, [x0, 16]          // keys, dims
  ldr x5, [x0, 32]              // target
  lsl x2, x2, \shift
  lsl x6, x3, 5                 // bytes of a panel
  lsl x14, x2, 5                // 32 keys on
  ptrue p0.s
  ptrue p1.s, vl8
  not p2.b, p0/z, p1.b
  .set i, 23
  .rept 9
    clear %i
    .set i, i + 1
  .endr
1:                              // 16 dims, or what is left: two panels, or one
  whilelt p3.s, xzr, x4
  add x16, x4, 8
  whilelt p4.s, xzr, x16
  and p4.b, p0/z, p4.b, p2.b    // dims 0 to 7 in the upper half
  sub x16, x4, 8
  whilelt p5.s, xzr, x16
  and p5.b, p0/z, p5.b, p1.b    // dims 8 to 15 in the lower half
  cmp x4, 8
  csetm x16, gt
  whilelo p6.s, xzr, x16        // all if there is a second panel, else none
  and p7.b, p0/z, p6.b, p1.b
  mov x7, x1
  add x11, x7, x2
  mov x9, x5
  add x10, x5, x6
  subs x8, x3, 8
  b.lt 3f
  .p2align 5
\name\().loop.e128:
2:
  .set i, 0
  .rept 4
    two_keys \load, \half, %(4 * (i - i / 2 * 2)), %(24 + 2 * i)
    store_two %(4 * (i - i / 2 * 2)), %i
    .set i, i + 1
  .endr
  add x9, x9, 256
  add x10, x10, 256
  subs x8, x8, 8
  b.ge 2b
\name\().loop_end:
3:
  adds x8, x8, 6                // keys left, less 2
  b.lt 5f
4:
  two_keys \load, \half, 0, 24
  store_two 0, 0
  add x9, x9, 64
  add x10, x10, 64
  subs x8, x8, 2
  b.ge 4b
5:
  tbz x8, 0, 6f                 // -1: one key left
  add x12, x7, \half
  \load 0, p3, x7
  \load 2, p5, x12
  st1w {z0.s}, p1, [x9]
  st1w {z2.s}, p7, [x10]
  fmla z24.s, p0/m, z0.s, z23.s // all 16 dims are in z0
6:
  add x1, x1, \whole
  add x5, x5, x6, lsl 1
  subs x4, x4, 16
  b.gt 1b
  .set i, 25
  .rept 7
    add_to_first %i
    .set i, i + 1
  .endr
  fcmuo p1.s, p0/z, z24.s, z24.s
  ptest p0, p1.b
  cset w0, none
  ret
.size \name, . - \name
.endm
.macro add_to_first i
  fadd z24.s, z24.s, z\i\().s
.endm

.text
pack_value pack_value_f32_sve512, load_f32, 2, 32, 64
pack_value pack_value_f16_sve512, load_f16, 1, 16, 32
pack_value pack_value_bf16_sve512, load_bf16, 1, 16, 32
.section .note.GNU-stack, "", %progbits
#endif
