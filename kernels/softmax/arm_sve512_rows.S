// Softmax of rows for SVE at 512 bits (A64FX). Contract: rows.h; the exponential: simd/exp2.h.
//
// The chain of one exponential takes 70 cycles from its load on, and 9 slots of the two pipes (4.5 cycles) with its store: 15 of
// them have to be under way, and the core's 96 free registers hold fewer than that of an order in which operations wait for
// operands (0.40 cycles an element in llvm-mca's narrow core). So the loops are software pipelines: the stages of eight vectors
// stand where their operands are about ready, those of a turn's late stages beside the next turn's early ones (0.30). What the core
// asks for beside that (Microarchitecture Manual 1.8.1):
//  - no FMAX or FADD with an immediate, no permutation where a selection does (these go to one pipe, as stores do);
//  - FADDV and FMAXV (9 operations) once a row, FDIV (98 cycles) once a call.
//
// Labels around the inner loops are what bench/a64fx_model looks for: <name>.loop.e<elements a turn> and <name>.loop_end.
#if defined(__aarch64__) && defined(__ELF__)
.arch armv8.2-a+sve+fp16
.altmacro

.macro begin_function name
  .global \name
  .hidden \name
  .type \name, STT_FUNC
  .p2align 6
\name:
.endm
// d8-d15 are the caller's.
.macro save_registers
  stp d8, d9, [sp, -64]!
  stp d10, d11, [sp, 16]
  stp d12, d13, [sp, 32]
  stp d14, d15, [sp, 48]
.endm
.macro restore_registers
  ldp d14, d15, [sp, 48]
  ldp d12, d13, [sp, 32]
  ldp d10, d11, [sp, 16]
  ldp d8, d9, [sp], 64
.endm
.macro constant reg, bits
  mov w16, (\bits) & 0xffff
  movk w16, (\bits) >> 16, lsl 16
  dup z\reg\().s, w16
.endm

// ---- 2^x. Vector i: scores in z(0 + i), result in z(8 + i), z(16 + i) between. Constants:
//   z24 scale   z25 shift - value (folded) or value   z26, z27 polynomial   z28 lowest score (folded) or -127
//   z29 shift   z30 value - value: 0, or NaN where it is not finite
// folded 1: the subtraction of the row's value is part of the FMA that scales.
.macro exp2_constants
  ld1rw {z24.s}, p0/z, [x0, 56]
  constant 26, 0x3f317242       // 0x1.62e485p-1, rounded to f32
  constant 27, 0x3e75fdf0       // 0x1.ebfbe0p-3
  constant 29, 0x48401fc0       // kFexpaShift, 0x1.803f8p+17
.endm

.macro stage_convert i
  scvtf z\i\().s, p0/m, z\i\().s
.endm
.macro stage_clamp i
  fmax z\i\().s, p0/m, z\i\().s, z28.s
.endm
.macro stage_index acc, i
  movprfx z\acc, z25
  fmla z\acc\().s, p0/m, z\i\().s, z24.s
.endm
.macro stage_whole t, acc
  fsub z\t\().s, z\acc\().s, z25.s
.endm
.macro stage_rest t, i
  fnmls z\t\().s, p0/m, z\i\().s, z24.s
.endm
.macro stage_expa acc
  fexpa z\acc\().s, z\acc\().s
.endm
.macro stage_poly i, t
  movprfx z\i, z26
  fmla z\i\().s, p0/m, z\t\().s, z27.s
.endm
.macro stage_poly_times i, t
  fmul z\i\().s, z\i\().s, z\t\().s
.endm
.macro stage_result acc, i
  fmla z\acc\().s, p0/m, z\acc\().s, z\i\().s
.endm
// Not folded: x first.
.macro stage_x t, i
  movprfx z\t, z25
  fnmls z\t\().s, p0/m, z\i\().s, z24.s
.endm
.macro stage_x_clamp t
  fmax z\t\().s, p0/m, z\t\().s, z28.s
.endm
.macro stage_x_index acc, t
  fadd z\acc\().s, z\t\().s, z29.s
.endm
.macro stage_x_rest i, acc, t
  fsub z\i\().s, z\acc\().s, z29.s
  fsub z\t\().s, z\t\().s, z\i\().s
.endm
.macro stage_not_finite acc
  fadd z\acc\().s, z\acc\().s, z30.s
.endm

// exp2_vectors count, exact, folded, skew: stage k of vector i stands in turn k + skew * i.
.macro exp2_vectors count, exact, folded, skew
  .set turn, 0
  .rept 8 + \skew * (\count - 1)
    .set i, 0
    .rept \count
      .set k, turn - \skew * i
      .if \folded
        .if k == 0
          stage_clamp %i
        .elseif k == 1
          stage_index %(8 + i), %i
        .endif
        .if \exact
          .if k == 2
            stage_whole %(16 + i), %(8 + i)
          .elseif k == 3
            stage_rest %(16 + i), %i
          .endif
        .endif
      .else
        .if k == 0
          stage_x %(16 + i), %i
        .elseif k == 1
          stage_x_clamp %(16 + i)
        .elseif k == 2
          stage_x_index %(8 + i), %(16 + i)
        .elseif k == 3
          stage_x_rest %i, %(8 + i), %(16 + i)
        .endif
      .endif
      .if k == 4
        stage_expa %(8 + i)
        .if \exact
          stage_poly %i, %(16 + i)
        .elseif \folded == 0
          stage_not_finite %(8 + i)
        .endif
      .endif
      .if \exact
        .if k == 5
          stage_poly_times %i, %(16 + i)
        .elseif k == 6
          stage_result %(8 + i), %i
        .endif
      .endif
      .set i, i + 1
    .endr
    .set turn, turn + 1
  .endr
.endm

// From z25, the rows' values: what the stages ask for. x17: not 0 if they must not be folded. z31: 1 / scale.
.macro prepare_values
  constant 28, 0xff800000
  fcmeq p4.s, p0/z, z25.s, z28.s
  mov z25.s, p4/m, 0            // no keys seen: 0
  fsub z30.s, z25.s, z25.s
  constant 28, 0x47000000       // 2^15
  facle p4.s, p0/z, z25.s, z28.s
  nots p4.b, p0/z, p4.b
  cset w17, any
  constant 28, 0xc2fe0000       // -127
  cbnz w17, 1f
  fadd z28.s, z25.s, z28.s
  fmul z28.s, z28.s, z31.s
  fsub z25.s, z29.s, z25.s
1:
.endm

.macro load_f32 i, mask
  ld1w {z\i\().s}, \mask\()/z, [x8, \i, mul vl]
.endm
.macro load_f16 i, mask
  ld1h {z\i\().s}, \mask\()/z, [x8, \i, mul vl]
.endm
.macro store_f32 acc, i, mask
  st1w {z\acc\().s}, \mask, [x9, \i, mul vl]
.endm
.macro store_f16 acc, i, mask
  fcvt z\acc\().h, p0/m, z\acc\().s
  st1h {z\acc\().s}, \mask, [x9, \i, mul vl]
.endm
.macro each what, count, mask
  .set i, 0
  .rept \count
    \what %i, \mask
    .set i, i + 1
  .endr
.endm
.macro each_store what, count, mask
  .set i, 0
  .rept \count
    \what %(8 + i), %i, \mask
    .set i, i + 1
  .endr
.endm
.macro each_convert count
  .set i, 0
  .rept \count
    stage_convert %i
    .set i, i + 1
  .endr
.endm

// x1 source row, x2 its stride, x3 target row, x4 its stride, x5 rows left, x6 n, x7 the row's value.
.macro row_operands
  ldp x1, x2, [x0]
  ldp x3, x4, [x0, 16]
  ldp x5, x6, [x0, 32]
  ldr x7, [x0, 48]
  ptrue p0.s
.endm

// \convert: the scores are i32. width: bytes of an element of P.
// The software pipeline of a row: vector i is 4 turns behind vector i - 1; of the 64 turns in which all eight pass through their
// stages, the first 32 are part 1, the others part 2. Part 3: both at once, part 2 of a group beside part 1 of the next.
// Between: z(16 + i mod 4), whose times in two vectors 16 turns apart do not meet.
.macro stage_at at, i, convert, exact, store
  .if \at == 0
    load_f32 \i, p0
  .elseif \at == 1
    .if \convert
      stage_convert \i
    .endif
  .elseif \at == 2
    stage_clamp \i
  .elseif \at == 6
    stage_index %(8 + \i), \i
  .elseif \exact
    .set between, 16 + \i - \i / 4 * 4
    .if \at == 11
      stage_whole %between, %(8 + \i)
    .elseif \at == 13
      stage_rest %between, \i
    .elseif \at == 21
      stage_expa %(8 + \i)
      stage_poly \i, %between
    .elseif \at == 26
      stage_poly_times \i, %between
    .elseif \at == 31
      stage_result %(8 + \i), \i
    .elseif \at == 35
      \store %(8 + \i), \i, p0
    .endif
  .elseif \at == 16
    stage_expa %(8 + \i)
  .elseif \at == 35
    \store %(8 + \i), \i, p0
  .endif
.endm
.macro exp2_turns parts, convert, exact, store
  .set turn, 0
  .rept 32
    .set vector, 0
    .rept 8
      .set at, turn - 4 * vector
      .if \parts > 1
        stage_at %(at + 32), %vector, \convert, \exact, \store
      .endif
      .if \parts != 2
        stage_at %at, %vector, \convert, \exact, \store
      .endif
      .set vector, vector + 1
    .endr
    .set turn, turn + 1
  .endr
.endm

.macro exp2_rows name, convert, width, store, exact
begin_function \name
  save_registers
  row_operands
  exp2_constants
  fmov z31.s, 1.0
  fdiv z31.s, p0/m, z31.s, z24.s
\name\().row:
  mov x8, x1
  mov x9, x3
  ld1rw {z25.s}, p0/z, [x7]
  prepare_values
  cbnz w17, 6f
  subs x10, x6, 128
  b.lt 4f
  exp2_turns 1, \convert, \exact, \store
  add x8, x8, 512
  subs x10, x10, 128
  b.lt 2f
  .p2align 5
\name\().loop.e128:
3:
  exp2_turns 3, \convert, \exact, \store
  add x8, x8, 512
  add x9, x9, 128 * \width
  subs x10, x10, 128
  b.ge 3b
\name\().loop_end:
2:
  exp2_turns 2, \convert, \exact, \store
  add x9, x9, 128 * \width
4:
  adds x10, x10, 128
  b.eq 9f
  mov x11, 0
5:                              // one vector, the last one of fewer lanes
  whilelt p1.s, x11, x10
  each load_f32, 1, p1
  .if \convert
    each_convert 1
  .endif
  exp2_vectors 1, \exact, 1, 1
  each_store \store, 1, p1
  add x8, x8, 64
  add x9, x9, 16 * \width
  add x11, x11, 16
  cmp x11, x10
  b.lt 5b
  b 9f
6:
  mov x11, 0
7:                              // a value that is not finite, or large
  whilelt p1.s, x11, x6
  each load_f32, 1, p1
  .if \convert
    each_convert 1
  .endif
  exp2_vectors 1, \exact, 0, 1
  each_store \store, 1, p1
  add x8, x8, 64
  add x9, x9, 16 * \width
  add x11, x11, 16
  cmp x11, x6
  b.lt 7b
9:
  add x1, x1, x2
  add x3, x3, x4
  add x7, x7, 4
  subs x5, x5, 1
  b.ne \name\().row
  restore_registers
  ret
.size \name, . - \name
.endm

// ---- Panels: 8 rows of 4 columns become two vectors of 8 x 2. Each row's 4 elements are loaded into all four quarters of a register;
// selections, which go to either pipe, put 4 rows into one, and two UZP turn 2 x 4 x 4 into columns: 24 selections, 16 UZP
// and 8 stores for 128 elements are 48 slots, where ZIPs and whole loads would take 24 + 8 slots of one pipe alone.
.macro quarter_load acc, row, column, mask
  ld1rqw {z\acc\().s}, \mask\()/z, [x\row, x\column, lsl 2]
.endm
.macro quarters a, b, c, d
  sel z\a\().s, p8, z\b\().s, z\a\().s
  sel z\c\().s, p10, z\d\().s, z\c\().s
.endm
.macro halves a, c
  sel z\a\().s, p9, z\c\().s, z\a\().s
.endm
.macro unzip even, odd, a, b
  uzp1 z\even\().s, z\a\().s, z\b\().s
  uzp2 z\odd\().s, z\a\().s, z\b\().s
.endm
// Columns 4q .. 4q + 3 into z(2q), z(2q + 1) by the registers from t on. Rows at x8 .. x15, columns counted by x1 + q.
.macro four_columns q, t, mask
  .set row, 0
  .rept 8
    quarter_load %(\t + row), %(8 + row), %(1 + \q), \mask
    .set row, row + 1
  .endr
  quarters %(\t), %(\t + 1), %(\t + 2), %(\t + 3)
  quarters %(\t + 4), %(\t + 5), %(\t + 6), %(\t + 7)
  halves %(\t), %(\t + 2)
  halves %(\t + 4), %(\t + 6)
  unzip %(\t + 1), %(\t + 3), %(\t), %(\t + 4)
  unzip %(2 * \q), %(2 * \q + 1), %(\t + 1), %(\t + 3)
.endm

.macro keep_rows i
  sel z\i\().s, p11, z\i\().s, z31.s
.endm
.macro each_keep count
  .set i, 0
  .rept \count
    keep_rows %i
    .set i, i + 1
  .endr
.endm
// Panels of f32, or of f16 where the symbol panel_half is set: 2 bytes a lane, so that a step is half as long.
.macro store_panel acc, i, mask
  .if panel_half
    fcvt z\acc\().h, p0/m, z\acc\().s
    st1h {z\acc\().s}, \mask, [x6, \i, mul vl]
  .else
    st1w {z\acc\().s}, \mask, [x6, \i, mul vl]
  .endif
.endm
.macro next_panel_columns columns
  add x6, x6, 32 * \columns - 16 * \columns * panel_half
.endm
// what: 0 as they are, 1 rows past the last become 0, 2 exponentials, 3 the same without folding
.macro panel_result what, count, convert, exact
  .if \what == 1
    each_keep \count
  .elseif \what > 1
    .if \convert
      each_convert \count
    .endif
    exp2_vectors \count, \exact, (3 - \what), 1
  .endif
.endm

.macro start_columns
  mov x1, 0
  mov x2, 4
  mov x3, 8
  mov x4, 12
.endm
.macro next_columns
  add x1, x1, 16
  add x2, x2, 16
  add x3, x3, 16
  add x4, x4, 16
.endm
// Less than 16 columns, of which x5 has the number less 16; then on to label 9.
.macro panel_rest what, convert, exact
  .set first, 8 * (\what / 2)           // the first register of results
  adds x5, x5, 16
  b.eq 9f
5:                              // four columns, or what is left
  whilelt p1.s, xzr, x5
  four_columns 0, 16, p1
  panel_result \what, 2, \convert, \exact
  lsl x16, x5, 3
  mov x17, 16
  whilelt p2.s, xzr, x16
  whilelt p3.s, x17, x16
  store_panel %first, 0, p2
  store_panel %(first + 1), 1, p3
  add x1, x1, 4
  next_panel_columns 4
  subs x5, x5, 4
  b.gt 5b
  b 9f
.endm

.macro panel_loop label, what, convert, exact
  .set first, 8 * (\what / 2)
  start_columns
  subs x5, x7, 16
  b.lt 4f
  .p2align 5
\label\().loop.e128:
3:
  .set group, 0
  .rept 4
    four_columns %group, %(8 + 8 * (group - group / 2 * 2)), p0
    .set group, group + 1
  .endr
  panel_result \what, 8, \convert, \exact
  .set i, 0
  .rept 8
    store_panel %(first + i), %i, p0
    .set i, i + 1
  .endr
  next_columns
  next_panel_columns 16
  subs x5, x5, 16
  b.ge 3b
\label\().loop_end:
4:
  panel_rest \what, \convert, \exact
.endm

// x8 .. x15: rows, absent ones read what the first one holds. x6 target, x7 n.
.macro next_row number, before
  add x\number, x\before, x2
.endm
.macro present_row number, row
  cmp x5, \row
  csel x\number, x\number, x1, gt
.endm
.macro panel_operands
  ptrue p0.s
  ldp x1, x2, [x0]
  ldr x6, [x0, 16]
  ldp x5, x7, [x0, 32]
  mov x8, x1
  .set row, 1
  .rept 7
    next_row %(8 + row), %(7 + row)
    .set row, row + 1
  .endr
  .set row, 1
  .rept 7
    present_row %(8 + row), %row
    .set row, row + 1
  .endr
  ptrue p8.s, vl4
  ptrue p9.s, vl8
  not p10.b, p0/z, p9.b         // lanes 8 to 15
  eor p8.b, p0/z, p8.b, p9.b    // 4 to 7
  mov x16, -12                  // 12 to 15: 0 to 3 turned about
  index z31.s, w16, 1
  cmpge p11.s, p0/z, z31.s, 0
  mov p9.b, p10.b
  mov p10.b, p11.b
.endm

// The software pipeline of a panel: 16 columns in three times 64 turns. Columns 4q .. 4q + 3 come together from turn 16 q on and
// are vectors 2q and 2q + 1, the second 8 turns behind. Parts 1, 2 and 3 are these 64 turns each: \from to \to at once, of as many
// groups of columns. Registers: scores z(i mod 4), the polynomial z(4 + i mod 4), results z(8 + i), between z(16 + i mod 4), quarters
// z20-23 and z29-31.
.macro quarters_at at, q
  .if \at == 0
    quarter_load 20, 8, %(1 + \q), p0
    quarter_load 21, 9, %(1 + \q), p0
    quarter_load 22, 10, %(1 + \q), p0
    quarter_load 23, 11, %(1 + \q), p0
    quarter_load 29, 12, %(1 + \q), p0
    quarter_load 30, 13, %(1 + \q), p0
    quarter_load 31, 14, %(1 + \q), p0
  .elseif \at == 3
    quarters 20, 21, 22, 23
    quarter_load 21, 15, %(1 + \q), p0
  .elseif \at == 6
    halves 20, 22
  .elseif \at == 7
    quarters 29, 30, 31, 21
  .elseif \at == 9
    halves 29, 31
  .elseif \at == 11
    unzip 21, 23, 20, 29
  .elseif \at == 15
    unzip %(2 * \q - \q / 2 * 4), %(2 * \q - \q / 2 * 4 + 1), 21, 23
  .endif
.endm
.macro panel_stage_at at, i, convert, exact, place
  .set scores, \i - \i / 4 * 4
  .set between, 16 + scores
  .set powers, 4 + scores
  .if \at == 19
    .if \convert
      stage_convert %scores
    .endif
  .elseif \at == 24
    stage_clamp %scores
  .elseif \at == 26
    stage_index %(8 + \i), %scores
  .elseif \exact
    .if \at == 36
      stage_whole %between, %(8 + \i)
    .elseif \at == 37
      stage_rest %between, %scores
    .elseif \at == 51
      stage_expa %(8 + \i)
    .elseif \at == 55
      stage_poly %powers, %between
    .elseif \at == 60
      stage_poly_times %powers, %between
    .elseif \at == 73
      stage_result %(8 + \i), %powers
    .elseif \at == 88
      store_panel %(8 + \i), %(\i + \place), p0
    .endif
  .elseif \at == 47
    stage_expa %(8 + \i)
  .elseif \at == 74
    store_panel %(8 + \i), %(\i + \place), p0
  .endif
.endm
.macro panel_turns from, to, convert, exact
  .set turn, 0
  .rept 64
    .set part, \to
    .rept \to - \from + 1
      .set vector, 0
      .rept 8
        .set at, turn - 8 * vector + 64 * (part - 1)
        panel_stage_at %at, %vector, \convert, \exact, %(16 - 8 * part)
        .set vector, vector + 1
      .endr
      .set part, part - 1
    .endr
    .set part, \to
    .rept \to - \from + 1
      .set vector, 0
      .rept 4
        .set at, turn - 16 * vector + 64 * (part - 1)
        quarters_at %at, %vector
        .set vector, vector + 1
      .endr
      .set part, part - 1
    .endr
    .set turn, turn + 1
  .endr
  .if \from == 1
    next_columns
  .endif
  .if \from < 3
    .if \to > 1
      next_panel_columns 16       // part 2 stores to x6 on, part 3 to the 8 vectors before
    .endif
  .endif
.endm
.macro panel_pipeline label, convert, exact
  start_columns
  subs x5, x7, 16
  b.lt 4f
  panel_turns 1, 1, \convert, \exact
  subs x5, x5, 16
  b.lt 1f
  panel_turns 1, 2, \convert, \exact
  subs x5, x5, 16
  b.lt 2f
  .p2align 5
\label\().loop.e128:
3:
  panel_turns 1, 3, \convert, \exact
  subs x5, x5, 16
  b.ge 3b
\label\().loop_end:
2:
  panel_turns 2, 3, \convert, \exact
  panel_turns 3, 3, \convert, \exact
  b 4f
1:
  panel_turns 2, 2, \convert, \exact
  panel_turns 3, 3, \convert, \exact
4:
  panel_rest 2, \convert, \exact
.endm

.macro exp2_panel name, convert, half, exact
.set panel_half, \half
begin_function \name
  save_registers
  panel_operands
  exp2_constants
  fmov z31.s, 1.0
  fdiv z31.s, p0/m, z31.s, z24.s
  ldr x16, [x0, 48]
  whilelt p1.s, xzr, x5
  ld1w {z25.s}, p1/z, [x16]
  ld1rw {z0.s}, p0/z, [x16]
  sel z25.s, p1, z25.s, z0.s    // absent rows: the first one's value, as its scores
  movprfx z0, z25
  ext z0.b, z0.b, z25.b, 32
  ptrue p2.s, vl8
  sel z25.s, p2, z25.s, z0.s    // the values of 8 rows twice
  prepare_values
  cbnz w17, 6f
  panel_pipeline \name, \convert, \exact
6:
  panel_loop \name\().unfolded, 3, \convert, \exact
9:
  restore_registers
  ret
.size \name, . - \name
.endm

.macro copy_panel name
.set panel_half, 0
begin_function \name
  save_registers
  panel_operands
  cmp x5, 8
  b.lt 6f
  panel_loop \name, 0, 0, 0
6:
  index z0.s, 0, 1
  and z0.s, z0.s, 7
  dup z31.s, w5
  cmplt p1.s, p0/z, z0.s, z31.s
  mov p11.b, p1.b
  dup z31.s, 0
  panel_loop \name\().ragged, 1, 0, 0
9:
  restore_registers
  ret
.size \name, . - \name
.endm

// ---- Maximum and sum of rows: eight chains, reduced once a row.
.macro fold_max a, b
  fmax z\a\().s, p0/m, z\a\().s, z\b\().s
.endm
.macro fold_sum a, b
  fadd z\a\().s, z\a\().s, z\b\().s
.endm
.macro copy_chain to
  mov z\to\().d, z8.d
.endm
.macro zero_chain to
  dup z\to\().s, 0
.endm
.macro reduce_max
  fmaxv s8, p0, z8.s
.endm
.macro reduce_sum
  faddv s8, p0, z8.s
  ldr s9, [x7]
  fadd s8, s9, s8
.endm
.macro masked_load_sum i
  whilelt p1.s, x11, x10
  ld1w {z\i\().s}, p1/z, [x8, \i, mul vl]
  add x11, x11, 16
.endm
.macro masked_max i
  whilelt p1.s, x11, x10
  ld1w {z\i\().s}, p1/z, [x8, \i, mul vl]
  fmax z8.s, p1/m, z8.s, z\i\().s
  add x11, x11, 16
.endm
.macro fold_chains fold
  .set width, 1
  .rept 3
    .set chain, 0
    .rept 4
      .if (chain + width) < 8
        \fold %(8 + chain), %(8 + chain + width)
      .endif
      .set chain, chain + 2 * width
    .endr
    .set width, 2 * width
  .endr
.endm
.macro reduce_rows name, fold, first, reduce, is_max
begin_function \name
  save_registers
  row_operands
\name\().row:
  mov x8, x1
  .if \is_max
    ld1rw {z8.s}, p0/z, [x7]
  .else
    dup z8.s, 0
  .endif
  .set chain, 9
  .rept 7
    \first %chain
    .set chain, chain + 1
  .endr
  subs x10, x6, 128
  b.lt 4f
  .p2align 5
\name\().loop.e128:
3:
  each load_f32, 8, p0
  .set chain, 0
  .rept 8
    \fold %(8 + chain), %chain
    .set chain, chain + 1
  .endr
  add x8, x8, 512
  subs x10, x10, 128
  b.ge 3b
\name\().loop_end:
4:
  adds x10, x10, 128
  b.eq 5f
  mov x11, 0
  .set chain, 0
  .rept 8
    .if \is_max
      masked_max %chain
    .else
      masked_load_sum %chain
      \fold %(8 + chain), %chain
    .endif
    .set chain, chain + 1
  .endr
5:
  fold_chains \fold
  \reduce
  str s8, [x7], 4
  add x1, x1, x2
  subs x5, x5, 1
  b.ne \name\().row
  restore_registers
  ret
.size \name, . - \name
.endm

// Sums of the 8 rows of a panel: whole vectors hold two columns, so that lanes 8 to 15 sum up the odd ones.
begin_function rows_panel_sum_f32_sve512
  save_registers
  ptrue p0.s
  ldr x8, [x0]
  ldp x5, x6, [x0, 32]
  ldr x7, [x0, 48]
  dup z8.s, 0
  .set chain, 9
  .rept 7
    zero_chain %chain
    .set chain, chain + 1
  .endr
  lsl x6, x6, 3
  subs x10, x6, 128
  b.lt 4f
  .p2align 5
rows_panel_sum_f32_sve512.loop.e128:
3:
  each load_f32, 8, p0
  .set chain, 0
  .rept 8
    fold_sum %(8 + chain), %chain
    .set chain, chain + 1
  .endr
  add x8, x8, 512
  subs x10, x10, 128
  b.ge 3b
rows_panel_sum_f32_sve512.loop_end:
4:
  adds x10, x10, 128
  b.eq 5f
  mov x11, 0
  .set chain, 0
  .rept 8
    masked_load_sum %chain
    fold_sum %(8 + chain), %chain
    .set chain, chain + 1
  .endr
5:
  fold_chains fold_sum
  movprfx z0, z8
  ext z0.b, z0.b, z8.b, 32      // the odd columns
  fadd z8.s, z8.s, z0.s
  whilelt p1.s, xzr, x5
  ld1w {z0.s}, p1/z, [x7]
  fadd z8.s, z0.s, z8.s
  st1w {z8.s}, p1, [x7]
  restore_registers
  ret
.size rows_panel_sum_f32_sve512, . - rows_panel_sum_f32_sve512

// ---- Rows times a number.
.macro widen_one i
  fcvt z\i\().s, p0/m, z\i\().h
.endm
.macro multiply_one acc, i
  fmul z\acc\().s, z\i\().s, z24.s
.endm
.macro add_zero acc
  fadd z\acc\().s, z\acc\().s, z25.s
.endm
.macro multiply_vectors count, widen
  .if \widen
    .set i, 0
    .rept \count
      widen_one %i
      .set i, i + 1
    .endr
  .endif
  .set i, 0
  .rept \count
    multiply_one %(8 + i), %i
    .set i, i + 1
  .endr
  .set i, 0
  .rept \count
    add_zero %(8 + i)
    .set i, i + 1
  .endr
.endm
.macro multiply_rows name, load, width_in, widen, store, width_out
begin_function \name
  save_registers
  row_operands
  dup z25.s, 0
\name\().row:
  mov x8, x1
  mov x9, x3
  ld1rw {z24.s}, p0/z, [x7]
  subs x10, x6, 128
  b.lt 4f
  .p2align 5
\name\().loop.e128:
3:
  each \load, 8, p0
  multiply_vectors 8, \widen
  each_store \store, 8, p0
  add x8, x8, 128 * \width_in
  add x9, x9, 128 * \width_out
  subs x10, x10, 128
  b.ge 3b
\name\().loop_end:
4:
  adds x10, x10, 128
  b.eq 9f
  mov x11, 0
5:
  whilelt p1.s, x11, x10
  each \load, 1, p1
  multiply_vectors 1, \widen
  each_store \store, 1, p1
  add x8, x8, 16 * \width_in
  add x9, x9, 16 * \width_out
  add x11, x11, 16
  cmp x11, x10
  b.lt 5b
9:
  add x1, x1, x2
  add x3, x3, x4
  add x7, x7, 4
  subs x5, x5, 1
  b.ne \name\().row
  restore_registers
  ret
.size \name, . - \name
.endm

.text
exp2_rows rows_exp2_f32_f32_sve512, 0, 4, store_f32, 1
exp2_rows rows_exp2_f32_f16_sve512, 0, 2, store_f16, 1
exp2_rows rows_exp2_i32_f32_sve512, 1, 4, store_f32, 1
exp2_rows rows_exp2_i32_f16_sve512, 1, 2, store_f16, 1
exp2_rows rows_exp2_fast_f32_f32_sve512, 0, 4, store_f32, 0
exp2_rows rows_exp2_fast_f32_f16_sve512, 0, 2, store_f16, 0
exp2_rows rows_exp2_fast_i32_f32_sve512, 1, 4, store_f32, 0
exp2_rows rows_exp2_fast_i32_f16_sve512, 1, 2, store_f16, 0
exp2_panel rows_exp2_panel_f32_f32_sve512, 0, 0, 1
exp2_panel rows_exp2_panel_f32_f16_sve512, 0, 1, 1
exp2_panel rows_exp2_panel_i32_f32_sve512, 1, 0, 1
exp2_panel rows_exp2_panel_i32_f16_sve512, 1, 1, 1
exp2_panel rows_exp2_fast_panel_f32_f32_sve512, 0, 0, 0
exp2_panel rows_exp2_fast_panel_f32_f16_sve512, 0, 1, 0
exp2_panel rows_exp2_fast_panel_i32_f32_sve512, 1, 0, 0
exp2_panel rows_exp2_fast_panel_i32_f16_sve512, 1, 1, 0
copy_panel rows_panel_f32_f32_sve512
reduce_rows rows_max_f32_sve512, fold_max, copy_chain, reduce_max, 1
reduce_rows rows_sum_f32_sve512, fold_sum, zero_chain, reduce_sum, 0
multiply_rows rows_multiply_f32_f32_sve512, load_f32, 4, 0, store_f32, 4
multiply_rows rows_multiply_f32_f16_sve512, load_f32, 4, 0, store_f16, 2
multiply_rows rows_multiply_f16_f16_sve512, load_f16, 2, 1, store_f16, 2
.section .note.GNU-stack, "", %progbits
#endif
