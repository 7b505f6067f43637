// SPDX-License-Identifier: Apache-2.0
// Query panels, key panels of 16-bit elements, and tiles of scores with their maxima, for SVE at 512 bits (A64FX): 16 rows transposed.
// Contract: arm_sve512_transpose.h.
//
// A turn transposes 16 rows of 4 elements of 32 bits: f32, or pairs of 16-bit ones. Each row's 4 elements are loaded into all four quarters
// of a register; selections, which can run on either pipe, merge 4 rows into one register, and 8 UZP transpose 4 x 4 x 4: 12 selections and
// 8 UZP for 64 elements, where ZIPs of whole rows would be 64 for 256, on one pipe alone. One turn is finished while the next is loaded and
// merged.
//
// The limit is how far a turn overlaps with its neighbours: the core can rename 96 registers. So stores use offsets from one base, and one
// register is the loop counter. The order within one_transpose is the best of 430 that were tried, cycles an element in the narrow model of
// the core: query f32 0.250 (others 0.259 to 0.32), query f16 0.203, key f16 0.242; not overlapped 0.35, 0.30, 0.34.
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve+fp16
.altmacro

// type: 0 f32, 1 f16, 2 bf16. Rows at x1 .. x16, counted by x17 from their end.
.macro quarter_load type, acc, row, mask
  .if \type == 0
    ld1rqw {z\acc\().s}, \mask\()/z, [x\row, x17, lsl 2]
  .else
    ld1rqh {z\acc\().h}, \mask\()/z, [x\row, x17, lsl 1]
  .endif
.endm
.macro load_rows type, t, row, mask
  quarter_load \type, \t, \row, \mask
  quarter_load \type, %(\t + 1), %(\row + 1), \mask
  quarter_load \type, %(\t + 2), %(\row + 2), \mask
  quarter_load \type, %(\t + 3), %(\row + 3), \mask
.endm
// Merges the four rows in registers from z(t) on into z(t): p8 has lanes 4 to 7, p10 12 to 15, p9 8 to 15.
.macro join_registers a, b, c, d
  sel z\a\().s, p8, z\b\().s, z\a\().s
  sel z\c\().s, p10, z\d\().s, z\c\().s
  sel z\a\().s, p9, z\c\().s, z\a\().s
.endm
.macro join_rows t
  join_registers \t, %(\t + 1), %(\t + 2), %(\t + 3)
.endm
// The even and the odd element of a pair, as f32.
.macro widen type, even, odd
  .if \type == 1
    lsr z\odd\().s, z\even\().s, 16
    fcvt z\even\().s, p0/m, z\even\().h
    fcvt z\odd\().s, p0/m, z\odd\().h
  .else
    and z\odd\().d, z\even\().d, z29.d
    lsl z\even\().s, z\even\().s, 16
  .endif
.endm
// Sets missing rows to 0.
.macro keep_used whole, i
  .if \whole == 0
    sel z\i\().s, p7, z\i\().s, z31.s
  .endif
.endm

// whole: 2 is all rows and columns, 1 all columns, 0 neither. Stores one of four columns of a query panel: column 0 at x20; columns 1, 2
// and 3 lie x21, x23 and x24 floats further on.
.macro store_column i, column
  .if \column == 0
    st1w {z\i\().s}, p0, [x20]
  .elseif \column == 1
    st1w {z\i\().s}, p0, [x20, x21, lsl 2]
  .elseif \column == 2
    st1w {z\i\().s}, p0, [x20, x23, lsl 2]
  .else
    st1w {z\i\().s}, p0, [x20, x24, lsl 2]
    add x20, x20, x25
  .endif
.endm
.macro query_column whole, column, i
  fmul z\i\().s, p0/m, z\i\().s, z30.s
  keep_used %(\whole / 2), \i
  .if \whole
    store_column \i, \column
  .else
    cmp x19, 0                  // x19 columns are left
    csetm x22, gt
    whilelo p2.s, xzr, x22
    st1w {z\i\().s}, p2, [x20]
    sub x19, x19, 1
    add x20, x20, x21, lsl 2
  .endif
.endm
// Part 0 to 3 of a turn, in z(i): a column, or a pair of columns.
.macro finish_query type, whole, part, i
  .if \type == 0
    query_column \whole, \part, \i
  .else
    widen \type, \i, 25
    query_column \whole, %(\part * 2 - \part / 2 * 4), \i
    query_column \whole, %(\part * 2 - \part / 2 * 4 + 1), 25
  .endif
.endm

// A column of scores. The maxima in z29 are raised once a turn, so that a turn does not wait for a chain of four.
.macro higher a, b
  fmaxnm z\a\().s, p0/m, z\a\().s, z\b\().s
.endm
.macro finish_scores type, whole, part, i
  query_column \whole, \part, \i
  .if \whole == 0
    fmaxnm z29.s, p2/m, z29.s, z\i\().s
  .elseif \part == 1
    higher 28, 24
  .elseif \part == 3
    higher 26, 27
    higher 28, 26
    higher 29, 28
  .endif
.endm

// Stores two columns into a vector of each key panel, at x20 and x21: rows 0 to 7 of both, and 8 to 15.
.macro key_columns whole, part, a, b
  keep_used %(\whole / 2), \a
  keep_used %(\whole / 2), \b
  movprfx z30, z\a
  ext z30.b, z30.b, z\b\().b, 32
  sel z\a\().s, p4, z\a\().s, z30.s
  sel z\b\().s, p4, z30.s, z\b\().s
  .if \whole
    st1w {z\a\().s}, p0, [x20, \part, mul vl]
    st1w {z\b\().s}, p6, [x21, \part, mul vl]
  .else
    lsl x22, x19, 3             // lanes that are left
    whilelt p2.s, xzr, x22
    and p3.b, p0/z, p2.b, p6.b
    st1w {z\a\().s}, p2, [x20, \part, mul vl]
    st1w {z\b\().s}, p3, [x21, \part, mul vl]
    sub x19, x19, 2
  .endif
  .if \part == 3
    add x20, x20, 256
    add x21, x21, 256
  .endif
.endm
.macro finish_key type, whole, part, i
  widen \type, \i, 25
  key_columns \whole, \part, \i, 25
.endm

// Finishes the turn in z0, z4, z16 and z20 while the next rows are loaded and merged there (next).
.macro one_transpose type, finish, whole, next
  uzp1 z24.s, z0.s, z4.s
  uzp2 z25.s, z0.s, z4.s
  .if \next
    load_rows \type, 4, 5, p0
    load_rows \type, 0, 1, p0
  .endif
  uzp1 z26.s, z16.s, z20.s
  uzp2 z27.s, z16.s, z20.s
  .if \next
    load_rows \type, 16, 9, p0
    load_rows \type, 20, 13, p0
  .endif
  uzp1 z28.s, z24.s, z26.s
  uzp2 z26.s, z24.s, z26.s
  uzp1 z24.s, z25.s, z27.s
  uzp2 z27.s, z25.s, z27.s
  .if \next
    join_rows 4
    join_rows 20
    join_rows 16
  .endif
  \finish \type, \whole, 0, 28
  .if \next
    join_rows 0
  .endif
  \finish \type, \whole, 1, 24
  \finish \type, \whole, 2, 26
  \finish \type, \whole, 3, 27
.endm
.macro first_rows type, mask
  load_rows \type, 0, 1, \mask
  load_rows \type, 4, 5, \mask
  load_rows \type, 16, 9, \mask
  load_rows \type, 20, 13, \mask
  join_rows 0
  join_rows 4
  join_rows 16
  join_rows 20
.endm

// width: elements of a row that a turn takes, 4 or 8; bits: the letter of their size. whole: 2, or 1 with missing rows. x17 counts up to 0,
// where the last whole turn begins: one register, where an index and a count would take two of those that limit how far turns overlap.
.macro turn_loop label, end, type, width, bits, finish, whole
  cmp x17, 0
  b.gt 2f
  first_rows \type, p0
  adds x17, x17, \width
  b.gt 4f
  .p2align 5
\label:
1:
  one_transpose \type, \finish, \whole, 1
  adds x17, x17, \width
  b.le 1b
\end:
4:
  one_transpose \type, \finish, \whole, 0
2:
  mov x19, \width
  subs x19, x19, x17            // elements that are left
  b.eq 9f
  whilelt p1.\bits, xzr, x19
  first_rows \type, p1
  one_transpose \type, \finish, 0, 0
.endm

.macro turn name, mark, type, width, bits, finish
  .global \name
  .hidden \name
  .type \name, STT_FUNC
  .p2align 6
\name:
  stp x19, x20, [sp, -64]!
  stp x21, x22, [sp, 16]
  stp x23, x24, [sp, 32]
  str x25, [sp, 48]
  ptrue p0.s
  .if \type
    ptrue p0.h
  .endif
  ptrue p4.s, vl4
  ptrue p9.s, vl8
  eor p8.b, p0/z, p4.b, p9.b
  mov x16, -12
  index z31.s, w16, 1           // 12 to 15: 0 to 3 rotated
  cmpge p10.s, p0/z, z31.s, 0
  mov p4.b, p9.b                // lanes 0 to 7
  ptrue p5.s
  not p9.b, p5/z, p4.b
  ldp x17, x19, [x0, 8]         // number of rows, elements of a row
  ldp x20, x21, [x0, 24]        // of a query panel the pitch in bytes
  .ifnc \finish, finish_key
    lsl x25, x21, 2
    lsr x21, x21, 2
    lsl x23, x21, 1
    add x24, x21, x23
  .endif
  ld1rw {z30.s}, p0/z, [x0, 40]
  dup z31.s, 0
  .ifc \finish, finish_scores
    ldr x22, [x0, 48]
    str x22, [sp, 56]
    ld1w {z29.s}, p0/z, [x22]
  .else
    mov w16, 0xffff0000
    dup z29.s, w16
  .endif
  whilelt p7.s, xzr, x17
  cmp x17, 8
  csetm x16, gt
  whilelo p6.s, xzr, x16        // all if there is a row 8, else none
  cmp x17, 16
  sub x22, x19, \width
  neg x17, x22
  ldr x0, [x0]
  ldp x1, x2, [x0]
  ldp x3, x4, [x0, 16]
  ldp x5, x6, [x0, 32]
  ldp x7, x8, [x0, 48]
  ldp x9, x10, [x0, 64]
  ldp x11, x12, [x0, 80]
  ldp x13, x14, [x0, 96]
  ldp x15, x16, [x0, 112]
  .irp row, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
    .if \type
      add x\row, x\row, x22, lsl 1
    .else
      add x\row, x\row, x22, lsl 2
    .endif
  .endr
  b.lt 3f
  turn_loop \name\().loop.\mark, \name\().loop_end, \type, \width, \bits, \finish, 2
  b 9f
3:
  turn_loop \name\().ragged, \name\().ragged_end, \type, \width, \bits, \finish, 1
9:
  .ifc \finish, finish_scores
    ldr x22, [sp, 56]
    st1w {z29.s}, p0, [x22]
  .endif
  ldr x25, [sp, 48]
  ldp x23, x24, [sp, 32]
  ldp x21, x22, [sp, 16]
  ldp x19, x20, [sp], 64
  ret
.size \name, . - \name
.endm

.text
turn pack_query_f32_sve512, e64, 0, 4, s, finish_query
turn score_tile_f32_sve512_turn, e64, 0, 4, s, finish_scores
turn pack_query_f16_sve512, e128, 1, 8, h, finish_query
turn pack_query_bf16_sve512, e128, 2, 8, h, finish_query
turn pack_key_f16_sve512, e128, 1, 8, h, finish_key
turn pack_key_bf16_sve512, e128, 2, 8, h, finish_key
.section .note.GNU-stack, "", %progbits
#endif
