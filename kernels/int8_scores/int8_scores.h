// SPDX-License-Identifier: Apache-2.0
// Scores of int8 queries and keys, each row of which has a scale of its own:
//
//   s = round(round(float(q . k) * query factor) * key factor)
//
// q . k is a sum of at most 576 products of at most 2^14: it is exact in int32, whatever the order, and exact
// as f32. So every row of the table, tile or decode, gives the same bits. The query's factor is its scale
// times scale * log2(e), rounded once; the key's is its scale.
//
// Operands of tiles are in steps of 4 bytes, as those of gemm.h: 4 dims, or 2 that are widened to int16;
// missing ones are 0. An instruction that multiplies unsigned by signed bytes takes queries plus 128, and a
// key's sums then start from -128 times the sum of its elements.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/decode/decode.h"
#include "kernels/gemm/gemm.h"

namespace kumiko::kernels {

/// B panel: dst[step][nr]; lanes past `rows_used` become 0.
struct Int8QueryArgs {
  const void* const* rows;  ///< [rows_used]
  std::int64_t rows_used;   ///< 1..nr
  std::int64_t nr;
  std::int64_t dim;
  void* dst;
};

/// A panels: dst[panel][step][mr], before the first step a row [mr] of the starts where there are any; rows
/// past `rows` become 0.
struct Int8KeyArgs {
  const void* src;
  std::int64_t stride;  ///< from one key to the next
  std::int64_t rows;
  std::int64_t dim;
  void* dst;
};

/// Few queries against row-major keys.
struct Int8RowsArgs {
  const std::int16_t* q;  ///< [rows][q_stride], 0 from dim on
  std::int64_t q_stride;  ///< dim rounded up to kInt8Chunk
  const float* q_factor;  ///< [rows]
  RowGroups k;            ///< [kv][dim]
  const float* k_factor;  ///< [kv]
  std::int64_t rows;
  std::int64_t dim;
  std::int64_t kv;
  float* scores;  ///< out: [rows][score_stride]
  std::int64_t score_stride;
  RowList rows_ahead;  ///< the keys, then their values
  FetchDistances fetch;
};
/// Dims that Int8RowsArgs takes at a time.
inline constexpr std::int64_t kInt8Chunk = 32;

struct Int8ScoresKernel {
  const char* name;
  Isa isa;
  Extension extension;  ///< without which the row cannot run
  int mr;
  int lanes;
  int per_step;     ///< dims of a step, 4 or 2
  bool has_starts;  ///< in panels of keys
  void (*query)(const Int8QueryArgs&) noexcept;
  void (*key)(const Int8KeyArgs&) noexcept;
  /// C = scores, by vectors of queries - 1. k counts steps; c_scale and row_scale are the factors; c_max, if
  /// given, is raised as by init_max.
  GemmFunction tile[3];
  void (*rows)(const Int8RowsArgs&) noexcept;

  std::int64_t steps(std::int64_t dim) const { return (dim + per_step - 1) / per_step; }
  std::int64_t query_bytes(std::int64_t dim, std::int64_t nr) const { return steps(dim) * nr * 4; }
  /// Of a panel of mr keys.
  std::int64_t panel_bytes(std::int64_t dim) const { return (steps(dim) + has_starts) * mr * 4; }
};

std::span<const Int8ScoresKernel> int8_scores_kernels();
/// The first row of `isa`, or of its base, that this machine can run; nullptr if there is none.
const Int8ScoresKernel* find_int8_scores(Isa isa);

}  // namespace kumiko::kernels
