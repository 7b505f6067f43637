// SPDX-License-Identifier: Apache-2.0
// Scores of int8 queries and keys, each row of which has a scale of its own:
//
//   s = round(float(q . k) * round(query factor * key factor))
//
// q . k is a sum of at most 576 products of at most 2^14: it is exact in int32, whatever the order, and exact
// as f32. So every row of the table gives the same bits, and so do tiles with the queries in the lanes and,
// in decode, tiles with the keys in the lanes. The query's factor is its scale times scale * log2(e), rounded
// once; the key's is its scale.
//
// Operands of tiles are in steps of 4 bytes, as those of gemm.h: 4 dims, or 2 that are widened to int16;
// missing dims are 0. An instruction that multiplies unsigned by signed bytes takes queries plus 128, and a
// key's sums then start from -128 times the sum of its elements.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
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

/// A panels: dst[panel][step][mr]. With has_starts a row [mr] of the values from which the sums start comes
/// before the first step. Rows past `rows` become 0.
struct Int8KeyArgs {
  const void* src;
  std::int64_t stride;  ///< bytes from one key to the next
  std::int64_t rows;
  std::int64_t dim;
  void* dst;
};

inline constexpr std::int64_t kMaxInt8Lanes = 48;  ///< of the widest tile of all ISAs

struct Int8ScoresKernel {
  const char* name;
  Isa isa;
  Extension extension;  ///< what the row needs beside `isa`
  int mr;
  int lanes;
  int per_step;     ///< dims of a step, 4 or 2
  bool has_starts;  ///< whether panels of keys hold the values from which sums start
  void (*query)(const Int8QueryArgs&) noexcept;
  void (*key)(const Int8KeyArgs&) noexcept;
  /// tile[n - 1]: C = scores of a tile with n vectors of queries. k counts steps; c_scale and row_scale are
  /// the factors of queries and keys; c_max, if given, is raised as by init_max.
  GemmFunction tile[3];

  std::int64_t steps(std::int64_t dim) const { return (dim + per_step - 1) / per_step; }
  std::int64_t query_bytes(std::int64_t dim, std::int64_t nr) const { return steps(dim) * nr * 4; }
  /// Lanes of the widest tile.
  std::int64_t most_lanes() const { return lanes * (tile[2] ? 3 : tile[1] ? 2 : 1); }
  /// Bytes of a panel of mr keys.
  std::int64_t panel_bytes(std::int64_t dim) const { return (steps(dim) + has_starts) * mr * 4; }
};

std::span<const Int8ScoresKernel> int8_scores_kernels();
/// The first row of `isa`, or of its base, that this machine can run; nullptr if there is none.
const Int8ScoresKernel* find_int8_scores(Isa isa);

}  // namespace kumiko::kernels
