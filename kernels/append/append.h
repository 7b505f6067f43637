// SPDX-License-Identifier: Apache-2.0
// Writes the rows of a new token into a cache: RMSNorm (Zhang & Sennrich, 2019), rotary position embedding
// (Su et al., RoFormer, 2021), and one rounding to the cache's type.
//
// The order of arithmetic, in f32, the same on every ISA, with subnormals kept:
//   norm      s_i = the chain of fma(x[d], x[d], s_i) over d = i, i + 16, ..., for i < 16, from 0; then
//             s_i += s_{i + 8} for i < 8, s_i += s_{i + 4} for i < 4, and so with 2 and 1;
//             x[d] = round(round(x[d] * inverse) * weight[d]), inverse = 1 / sqrt(s_0 / dim + eps)
//   rotation  of a pair (a, b): a' = round(a * cos) - round(b * sin), b' = round(b * cos) + round(a * sin)
//   result    rounded to nearest even; every NaN becomes the canonical one of the type (element.h)
// A row with neither norm nor rotation whose two types are the same is copied: every bit is kept.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"
#include "kernels/row_range.h"

namespace kumiko::kernels {

enum class RotaryPairs : std::uint8_t {
  none,      ///< No rotation.
  halves,    ///< (d, d + rotary_dim / 2)
  adjacent,  ///< (2 i, 2 i + 1)
};

/// Rows of one token, one for each head. `out` may be `in`, with the same strides and type; otherwise they do
/// not overlap. Reads and writes the rows' elements only.
struct AppendArgs {
  const void* in;
  std::int64_t in_stride;  ///< elements from one row to the next
  void* out;
  std::int64_t out_stride;
  std::int64_t rows;
  std::int64_t dim;
  const float* weight;  ///< [dim] of the norm; nullptr: no norm
  float eps;
  RotaryPairs pairs;
  std::int64_t rotary_dim;  ///< Even, at most dim; later elements are not rotated.
  /// halves: [rotary_dim / 2], one for each pair. adjacent: [rotary_dim], each twice, the first of a pair's
  /// two sines negated, so that x' = round(x * cos) + round(partner * sin) for both.
  const float *cos, *sin;
  /// What is read and written from these rows on, in order: kernels may fetch it `ahead` bytes of rows before
  /// its use. `next` is the last range and has kNoEnd rows. Nothing is fetched if `begin` is nullptr or
  /// `ahead` is 0.
  RowList reads{}, writes{};
  std::int64_t ahead = 0;
  /// Rows of `out` that are whole cache lines may be written by non-temporal stores. Then finish_streams()
  /// must be called before other threads read them.
  bool past_caches = false;
};

/// A fence for non-temporal stores: other threads see what was stored before it before what is stored after
/// it, as with ordinary stores.
void finish_streams() noexcept;

struct AppendKernel {
  const char* name;
  Isa isa;
  Element from, to;
  void (*rows)(const AppendArgs&) noexcept;
};

std::span<const AppendKernel> append_kernels();
const AppendKernel* find_append(Isa isa, Element from, Element to);

}  // namespace kumiko::kernels
