// SPDX-License-Identifier: Apache-2.0
// The state of a query's softmax, (m, l, O): running maximum in log2 units, running sum, unnormalised output.
// Merging two states of the same query over disjoint keys gives the state over their union (Milakov &
// Gimelshein 2018; FlashAttention 2022, section 3.1).
//
// Order of arithmetic: m' = max(m, other.m); a = 2^(m - m'), b = 2^(other.m - m') with m' = -inf taken as 0;
// l = fma(other.l, b, l * a); O = fma(other.O, b, O * a). Merging an empty state (-inf, 0, 0) changes no
// value (it may turn -0 into +0; the store adds +0, so that every zero of the output is +0 on every path).
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"

namespace kumiko::kernels {

/// A tile of queries in lanes: m, l [nr]; o [dim][nr].
struct TileState {
  float* m;
  float* l;
  float* o;
};

struct MergeTileArgs {
  TileState into;
  TileState from;
  std::int64_t nr;
  std::int64_t dim;
};

/// The same merge for one query stored as a row.
struct MergeRowArgs {
  float* m;
  float* l;
  float* o;  ///< [dim]
  float from_m;
  float from_l;
  const float* from_o;  ///< [dim]
  std::int64_t dim;
};

struct StateKernel {
  const char* name;
  Isa isa;
  int lanes;
  void (*merge_tile)(const MergeTileArgs&) noexcept;
  void (*merge_row)(const MergeRowArgs&) noexcept;
};

std::span<const StateKernel> state_kernels();
const StateKernel* find_state(Isa isa);

/// 1 / l, and 0 for a query that sees no key (l == 0), so that its output is 0. NaN stays NaN.
inline float inverse_sum(float l) {
  return l == 0.0f ? 0.0f : 1.0f / l;
}
/// Log-sum-exp of the scaled scores, natural or, with `is_base_2`, in log2 units. -inf for a query that sees
/// no key; every NaN becomes the canonical one (element.h).
float log_sum_exp(float m, float l, bool is_base_2 = false);

/// The largest scaled score of a query, natural units: the running maximum is that of all its blocks once
/// they are merged. A zero is +0. -inf for a query that sees no key; where the sum is NaN, which a score of
/// NaN or +inf makes it, the canonical NaN, because the maximum of such scores depends on their order.
float row_maximum(float m, float l);

/// How a row's LSE is stored.
struct LseForm {
  bool with_sink = true;
  bool is_base_2 = false;
};

/// What is stored from a query's last state.
struct RowEnd {
  float factor;  ///< out = factor * O
  float lse;
};
/// Ends a row with a sink, which is in natural units: the state (sink * log2(e), 1, 0) is merged with (m, l,
/// O), and `factor` includes O's factor in that merge. A sink of -inf has no effect, and no sink changes the
/// output of a query that sees no key.
RowEnd end_with_sink(const StateKernel& kernel, float m, float l, float sink, const LseForm& form);

}  // namespace kumiko::kernels
