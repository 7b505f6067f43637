// SPDX-License-Identifier: Apache-2.0
// Score tiles without the product or without the softmax: precomputed scores transposed into S^T, with the
// queries in lanes, and hidden scores set to 0 where no softmax follows.
//
//   rows [nr pointers]           S^T [kv][nr]
//   query 0 |s0 s1 s2 ...|       key 0 |q0 q1 ... |
//   query 1 |...         |  ->   key 1 |...       |
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/softmax/softmax.h"

namespace kumiko::kernels {

/// s[j][n] = round(float(rows[n][j]) * scale) for n < rows_used, 0 for the other lanes. block_max[n] is
/// raised to the largest s of lane n; NaNs are ignored. Nothing past a row's kv elements is read. Integers
/// are converted to float with rounding to nearest even (exact up to 2^24).
struct LoadScoresArgs {
  const void* const* rows;  ///< [rows_used] each query's score of the first key
  std::int64_t rows_used;   ///< 1..nr
  std::int64_t kv;          ///< >= 1
  std::int64_t nr;          ///< a multiple of the ISA's lanes
  float scale;
  float* s;          ///< [kv][nr]
  float* block_max;  ///< [nr]
};

struct ScoreTileKernel {
  const char* name;
  Isa isa;
  int lanes;
  void (*load_f32)(const LoadScoresArgs&) noexcept;
  void (*load_i32)(const LoadScoresArgs&) noexcept;
  /// Scores outside the query's [begin, end) become +0, whatever they were. block_max is not used.
  void (*zero_hidden)(const MaskArgs&) noexcept;
};

std::span<const ScoreTileKernel> score_tile_kernels();
/// The row of `isa` or of its base; for an ISA without a row, the reference row, which takes any nr.
const ScoreTileKernel* find_score_tile(Isa isa);

}  // namespace kumiko::kernels
