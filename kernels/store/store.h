// SPDX-License-Identifier: Apache-2.0
// Output rows from accumulated states: normalised, transposed from lanes to rows, rounded to the output's
// type. Adding +0 makes every zero +0, however the state was computed. The addition is a separate step: an
// FMA would round a negative product below the smallest number, which is not zero before rounding, to -0.
//
// Every NaN is written as the canonical one of the rows' type, positive and quiet with no payload: 0x7fc00000
// as f32, 0x7fc0 as bf16, 0x7e00 as f16. Which NaN an operation gives depends on the order of its operands.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

/// Writes lane n of O^T as row n: rows[n][d] = round(canonical(o[d][n] * inverse[n] + 0)) for n < rows_used,
/// d < dim. Writes nothing else.
struct StoreTileArgs {
  const float* o;        ///< [dim][nr]
  const float* inverse;  ///< [nr] 1 / l, or 1 for unnormalised partial results
  std::int64_t nr;
  std::int64_t dim;
  void* const* rows;  ///< [rows_used]
  std::int64_t rows_used;
};

/// One query stored as a row: out[d] = round(canonical(o[d] * inverse + 0)).
struct StoreRowArgs {
  const float* o;  ///< [dim]
  float inverse;
  std::int64_t dim;
  void* out;
};

struct StoreKernel {
  const char* name;
  Isa isa;
  Element element;  ///< of the rows written
  int lanes;
  void (*tile)(const StoreTileArgs&) noexcept;
  void (*row)(const StoreRowArgs&) noexcept;
};

std::span<const StoreKernel> store_kernels();
const StoreKernel* find_store(Isa isa, Element element);

}  // namespace kumiko::kernels
