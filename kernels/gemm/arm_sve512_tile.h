// Assembler macros that the SVE-512 micro-kernels share: the order of multiply-adds and loads of one register tile.
//
// A tile is MR rows x NV vectors. Registers: accumulators z0.. (row i, vector j: i * NV + j), then the B vectors, then the rows of A, each
// one element broadcast by LD1R. What A64FX asks for (Microarchitecture Manual 1.8.1), and what these macros do:
//  - FMLAs stand in runs of even length. The decoder gives slots 0 and 2 to pipe A, 1 and 3 to pipe B: one load after every
//    single FMLA would send them all to one pipe.
//  - a register of A is loaded again right after its last use, `na` rows ahead of the next; with base + immediate, because a pointer
//    that moves halves the rate of LD1R. Never LD1RQ and FMLA by element: that is two micro-operations.
//  - vectors by LD1 (2 a cycle), not by LDR (1 a cycle).
//
// The including file defines, for its element type:
//   mac ACC, B, A            one multiply-add by register numbers
//   broadcast REG, ROW       loads row ROW of A, counted from x10 on across steps of k, into all lanes
//   load_vector REG, INDEX   loads vector INDEX of B, counted from x11 - 512 bytes on (immediates reach -8 .. 7 vectors)
#pragma once
.altmacro

// tile_shape: rows, vectors, registers for rows of A, registers for vectors of B (NV, or twice that: two sets in turn), bytes of a
// row of A, and how many rows at a time go down one column before the next column (0: along the rows).
.macro tile_shape mr, nv, na, nb, row_bytes, batch
  .set tile_mr, \mr
  .set tile_nv, \nv
  .set tile_macs, \mr * \nv
  .set tile_na, \na
  .set tile_nb, \nb
  .set tile_b, \mr * \nv
  .set tile_a, \mr * \nv + \nb
  .set tile_row_bytes, \row_bytes
  .set tile_batch, \batch
  .set tile_prefetch, 0
  .if (tile_a + \na) > 32
    .error "more than 32 registers"
  .endif
.endm

// The register sets as they are at the start of a step: rows 0 .. na - 1 of A, all vectors of B.
.macro tile_first_loads
  .set row, 0
  .rept tile_na
    .if row < 2
      broadcast %(tile_a + row), %row
    .endif
    .set row, row + 1
  .endr
  .set vector, 0
  .rept tile_nv
    load_vector %(tile_b + vector), %vector
    .set vector, vector + 1
  .endr
  .set row, 0
  .rept tile_na
    .if row >= 2
      broadcast %(tile_a + row), %row
    .endif
    .set row, row + 1
  .endr
.endm

// Loads the next row of A into the register that its predecessor has left, once that is so; rows of the next iteration if \next.
.macro tile_load_a steps, next
  .if a_loads < (\steps * tile_mr)
    .set done_row, a_loads - a_loads / tile_mr * tile_mr
    .if tile_batch == 0
      .set done, (done_row + 1) * tile_nv
    .else
      .set done, (done_row / tile_batch * tile_nv + tile_nv - 1) * tile_batch + done_row - done_row / tile_batch * tile_batch + 1
    .endif
    .if (tile_step * tile_macs + macs) >= (a_loads / tile_mr * tile_macs + done)
      .set turn, a_loads - a_loads / tile_na * tile_na
      .if (a_loads + tile_na) < (\steps * tile_mr)
        broadcast %(tile_a + turn), %(a_loads + tile_na)
      .elseif \next
        broadcast %(tile_a + turn), %(\steps * tile_mr + turn)
      .endif
      .set a_loads, a_loads + 1
    .endif
  .endif
.endm

// The same for B. With two sets of registers the loads stand a whole step ahead, after the first FMLAs.
.macro tile_load_b steps, next
  .if b_loads < tile_nv
    .set to_set, 0
    .if two_sets
      .set done, 2 * b_loads + 2
      .set to_set, 1 - b_set
    .elseif tile_batch == 0
      .set done, (tile_mr - 1) * tile_nv + b_loads + 1
    .else
      .set done, (tile_mr / tile_batch - 1) * tile_batch * tile_nv + (b_loads + 1) * tile_batch
    .endif
    .if macs >= done
      .if ((tile_step + 1) < \steps) || \next
        load_vector %(tile_b + to_set * tile_nv + b_loads), %((tile_step + 1) * tile_nv + b_loads)
      .endif
      .set b_loads, b_loads + 1
    .endif
  .endif
.endm

// (Parentheses around comparisons: GNU as gives + and >= the same precedence, LLVM does not. No &: .altmacro eats it.)
// \steps steps of k; the operands of the step after them are loaded if \next.
.macro tile_steps steps, next
  .set a_loads, 0
  .set tile_step, 0
  .set two_sets, 0
  .if (tile_nb > tile_nv)
    .if \steps > 1
      .set two_sets, 1
    .endif
  .endif
  .rept \steps
    .set b_set, (tile_step - tile_step / 2 * 2) * two_sets
    .set b_loads, 0
    .set macs, 0
    .rept tile_macs
      .if tile_batch == 0
        .set i, macs / tile_nv
        .set j, macs - i * tile_nv
      .else
        .set in_batch, macs - macs / (tile_batch * tile_nv) * (tile_batch * tile_nv)
        .set j, in_batch / tile_batch
        .set i, macs / (tile_batch * tile_nv) * tile_batch + in_batch - j * tile_batch
      .endif
      .set a_row, tile_step * tile_mr + i
      mac %(i * tile_nv + j), %(tile_b + b_set * tile_nv + j), %(tile_a + a_row - a_row / tile_na * tile_na)
      .set macs, macs + 1
      .if (macs / 2 * 2) == macs
        tile_load_a \steps, \next
        tile_load_a \steps, \next
        tile_load_b \steps, \next
        tile_load_b \steps, \next
      .endif
    .endr
    .set tile_step, tile_step + 1
  .endr
.endm

.macro tile_advance steps
  add x10, x10, \steps * tile_mr * tile_row_bytes
  add x11, x11, \steps * tile_nv * 64
.endm

.macro tile_prefetch_b steps
  .set ahead, tile_prefetch - 512
  .if tile_prefetch
    .rept (\steps * tile_nv + 3) / 4    // a line has 4 vectors
      prefetch %ahead
      .set ahead, ahead + 256
    .endr
  .endif
.endm
.macro prefetch offset
  prfm pldl2keep, [x11, \offset]
.endm

// x8 >= 1 steps of k from A at x10 and B at x11 (moved), \unroll a turn. Pipelined: the loads of a step stand in the one before, and the last step
// is a piece of code of its own, because no load may reach past the operands. The loop's labels are what bench/a64fx_model looks for:
// <name>.loop.k<steps a turn> and <name>.loop_end.
.macro tile_product name, unroll, pipelined
  add x11, x11, 512
  .if \pipelined
    tile_first_loads
    subs x8, x8, \unroll + 1
    b.lt 3f
    .p2align 5
\name\().loop.k\unroll\():
2:
    tile_prefetch_b \unroll
    tile_steps \unroll, 1
    tile_advance \unroll
    subs x8, x8, \unroll
    b.ge 2b
\name\().loop_end:
3:
    adds x8, x8, \unroll      // what is left, less the last step
    b.eq 5f
    .if \unroll > 1
4:
      tile_steps 1, 1
      tile_advance 1
      subs x8, x8, 1
      b.ne 4b
    .endif
5:
    tile_steps 1, 0
  .else
    subs x8, x8, \unroll
    b.lt 3f
    .p2align 5
\name\().loop.k\unroll\():
2:
    tile_prefetch_b \unroll
    tile_first_loads
    tile_steps \unroll, 0
    tile_advance \unroll
    subs x8, x8, \unroll
    b.ge 2b
\name\().loop_end:
3:
    .if \unroll > 1
      adds x8, x8, \unroll
      b.eq 5f
4:
      tile_first_loads
      tile_steps 1, 0
      tile_advance 1
      subs x8, x8, 1
      b.ne 4b
5:
    .endif
  .endif
.endm

.macro zero_one n
  dup z\n\().s, 0             // EOR is no zeroing idiom on this core: it would wait for the register
.endm
.macro tile_zero
  .set i, 0
  .rept tile_macs
    zero_one %i
    .set i, i + 1
  .endr
.endm

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
