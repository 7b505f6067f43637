// SPDX-License-Identifier: Apache-2.0
// Softmax with the queries in rows: the steps between the two products where scores are row-major (S given by
// the caller, two-pass pipelines) and P is row-major or in the panels of gemm/panels.h. The tile of softmax.h
// has the queries in lanes instead and needs none of this.
//
//   exp2         dst[m][n] = 2^(src[m][n] * scale - values[m])
//   exp2_fast    the same without the polynomial: the nearest 64th root of 2
//   *_panel      the same results as a panel of 8 rows, column-major: dst[n][8]; rows past `rows` hold any
//                finite numbers
//   panel        dst[n][8] = src[m][n]; rows past `rows` are 0
//   max          values[m] = max(values[m], src[m][0], ...)
//   sum          values[m] = values[m] + (src[m][0] + ...)
//   panel_sum    values[m] = values[m] + (src[0][m] + ...) of a panel src[n][8]
//   multiply     dst[m][n] = round(src[m][n] * values[m] + 0), in f32 for all types
//
// exp2: values[m], in log2 units, is a whole number, no smaller than the row's largest score (its maximum
// rounded up: one power of two more or less cancels in the division by the sum). So the subtraction is exact
// and is part of the FMA that scales: x = src * scale - values[m] has no rounding of its own. The error of
// exp2 is 1.3e-7 of the result, that of exp2_fast 5.5e-3; x < -126 gives 0 (exp2) or a number in [0, 2^-126)
// (exp2_fast).
//
// A value of -inf (a row without keys) counts as 0. With any other value that is not finite, or one beyond
// 2^15, where the FMA would lose x, exp2 subtracts first, with one more rounding. So does exp2_fast, which
// also makes the row NaN if the value is not finite. A NaN score gives NaN in exp2; exp2_fast relies on the
// row's value being NaN, as max makes it.
//
// sum: lane c mod 128 adds up columns c, c + 128, ..., then the 128 sums are added pairwise (panel_sum: c mod
// 16). Everything runs in the state of float_state.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu.h"

namespace kumiko::kernels {

enum class RowOperation : std::uint8_t {
  exp2,
  exp2_fast,
  exp2_panel,
  exp2_fast_panel,
  panel,
  max,
  sum,
  panel_sum,
  multiply
};
enum class RowType : std::uint8_t { f32, f16, i32 };
const char* name(RowOperation operation);

/// Rows of an operand are `stride` bytes apart; any alignment of an element works. Nothing past n elements of
/// a row is read or written. Panels: rows <= 8. (Offsets are known to the .S files.)
struct RowArgs {
  const void* src;
  std::int64_t src_stride;
  void* dst;
  std::int64_t dst_stride;
  std::int64_t rows;  ///< >= 1
  std::int64_t n;     ///< >= 1
  float* values;      ///< [rows]
  float scale;        ///< exp2 alone; > 0
};
static_assert(offsetof(RowArgs, src_stride) == 8 && offsetof(RowArgs, dst) == 16 &&
              offsetof(RowArgs, dst_stride) == 24 && offsetof(RowArgs, rows) == 32 &&
              offsetof(RowArgs, n) == 40 && offsetof(RowArgs, values) == 48 &&
              offsetof(RowArgs, scale) == 56);

struct RowSoftmaxKernel {
  const char* name;
  Isa isa;
  RowOperation operation;
  RowType source;
  RowType target;  ///< equal to source where nothing is stored to dst
  void (*run)(const RowArgs*) noexcept;
};

std::span<const RowSoftmaxKernel> row_softmax_kernels();
/// The row of `isa`, else the reference's; nullptr if the operation has no such types.
const RowSoftmaxKernel* find_rows(Isa isa, RowOperation operation, RowType source, RowType target);

}  // namespace kumiko::kernels
