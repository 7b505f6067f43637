// SPDX-License-Identifier: Apache-2.0
// Changes scores between the product and the softmax, element by element, in this order:
//   scale     s = scale * s                      product bf16 only: elsewhere the query was scaled
//   softcap   s = softcap * tanh(s)              s came as scale / cap * q.k; softcap is in log2 units
//   bias      s = fma(bias, log2(e), s)
//   ALiBi     s = fma(slope, |position - j|, s)  slope in log2 units and negated (Press et al., 2022)
//   mask      s = -inf where the mask is 0, whatever s is
// The result is in log2 units. Each element's arithmetic is the same for a tile and for a row.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

inline constexpr float kLog2e = 0x1.715476p+0f;

/// A tile with the queries in lanes, or one query's row. Rows of bias and mask are given by a pointer to the
/// element of the first key; keys are `*_stride` elements apart (0: one element for all keys).
struct ScoreTerms {
  float softcap = 0.0f;  ///< 0: none
  bool has_bias = false, has_alibi = false, has_mask = false;
  Element bias_element = Element::f32;
  std::int64_t bias_stride = 0;
  std::int64_t mask_stride = 0;
  bool any() const { return softcap != 0.0f || has_bias || has_alibi || has_mask; }
};

struct ScoreTileArgs {
  float* s;         ///< [kv][nr], updated
  std::int64_t kv;  ///< >= 1
  std::int64_t nr;  ///< a multiple of the lanes
  const ScoreTerms* terms;
  const void* const* bias;          ///< [nr] if has_bias
  const std::uint8_t* const* mask;  ///< [nr] if has_mask
  const float* slope;               ///< [nr] if has_alibi
  const std::int32_t* position;     ///< [nr] if has_alibi, counted from the tile's first key
  float scale = 1.0f;
};

struct ScoreRowArgs {
  float* s;  ///< [kv], updated; memory up to the next multiple of the lanes may be written
  std::int64_t kv;
  const ScoreTerms* terms;
  const void* bias;
  const std::uint8_t* mask;
  float slope;
  std::int32_t position;
  float scale = 1.0f;
};

struct ScoreKernel {
  const char* name;
  Isa isa;
  int lanes;
  void (*tile)(const ScoreTileArgs&) noexcept;
  void (*row)(const ScoreRowArgs&) noexcept;
  /// y[i] = tanh(x[i]), n a multiple of the lanes: the function that softcap uses (bound in simd/tanh.h).
  void (*tanh)(const float* x, float* y, std::int64_t n) noexcept;
};

std::span<const ScoreKernel> score_kernels();
const ScoreKernel* find_score(Isa isa);

}  // namespace kumiko::kernels
