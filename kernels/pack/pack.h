// SPDX-License-Identifier: Apache-2.0
// Copies query, key and value rows into the panels that gemm.h reads, in steps of 4 bytes: one f32 element,
// or two bf16 elements that are neighbours in k (dims 2d and 2d + 1 of query and key rows; keys 2j and 2j + 1
// of values; a missing one is 0). The shapes below are for f32; for pairs, the number of dims or rows is
// halved and rounded up. Rows are given by stride or by pointer, elements of a row are contiguous; nothing
// past a row's `dim` elements is read.
//
// Product f16: steps are of one f16 element, 2 bytes. So that no score can overflow, whatever the elements,
// and few become subnormal, rows get ranges, powers of two that the product's factors undo (gemm.h):
//   a query n   t = |scale| * sum of |q_d| over its finite elements (16 chains, d mod 16, added in halves);
//               t = f * 2^e, f in [1/2, 1); e = 14 if t is 0 or not finite.
//               dst = f16(round(q_d * (scale * 2^(14 - e)))), range[n] = 2^(e - 14); missing rows: 0, 1
//   a key j     2^e is the power of two at or below its largest finite |k_d|; e = 0 if that is not normal.
//               dst = k_d * 2^-e, rounded to f16, range[j] = 2^e; missing rows: 0, 1
// Then the magnitudes in a query add up to at most 2^14 and those in a key are below 2. Values are not
// changed.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

/// Product f16: values beyond this are added one by one, in f32 (softmax.h says why).
inline constexpr float kHalfValueLimit = 256.0f;

/// B panel of the score product: dst[d][nr] = round(rows[n][d] * scale); lanes past `rows_used` become 0.
struct PackQueryArgs {
  const void* const* rows;  ///< [rows_used]
  std::int64_t rows_used;   ///< 1..nr
  std::int64_t nr;          ///< a multiple of the lanes
  std::int64_t dim;
  float scale;             ///< product bf16: 1, -1 or 0
  void* dst;               ///< [dim][nr]
  float* range = nullptr;  ///< [nr], product f16 only
};

/// A panels of the score product: dst[panel][d][mr] = src[panel * mr + m][d]; rows past `rows` become 0.
struct PackKeyArgs {
  const void* src;
  std::int64_t stride;  ///< elements from one key to the next
  std::int64_t rows;
  std::int64_t dim;
  void* dst;               ///< [ceil(rows / mr)][dim][mr]
  float* range = nullptr;  ///< [ceil(rows / mr)][mr], product f16 only
};

/// A panels of the output product: dst[panel][j][mr] = src[j][panel * mr + m]; dims past `dim` become 0.
struct PackValueArgs {
  const void* src;
  std::int64_t stride;
  std::int64_t rows;
  std::int64_t dim;
  void* dst;  ///< [ceil(dim / mr)][rows][mr]; product f16, nullptr: values are only checked
};

struct PackKernel {
  const char* name;
  Isa isa;
  Element element;  ///< of the source
  Element product;  ///< of the panels
  int mr;
  int lanes;
  void (*query)(const PackQueryArgs&) noexcept;
  void (*key)(const PackKeyArgs&) noexcept;
  /// Returns true if every value is finite and, product f16, within kHalfValueLimit.
  bool (*value)(const PackValueArgs&) noexcept;
};

std::span<const PackKernel> pack_kernels();
/// The ISA's own choice of a product for that element.
const PackKernel* find_pack(Isa isa, Element element);
/// nullptr if the ISA and its base have none.
const PackKernel* find_pack(Isa isa, Element element, Element product);

/// The range of a query of product f16: the factor of its elements, and the factor of its scores.
struct HalfRange {
  float element, score;
};
HalfRange half_query_range(float sum_of_magnitudes, float scale);

}  // namespace kumiko::kernels
