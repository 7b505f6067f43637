// SPDX-License-Identifier: Apache-2.0
// Copies query, key and value rows into the panels that gemm.h reads, in steps of 4 bytes: one f32 element,
// or two bf16 elements that are neighbours in k (dims 2d and 2d + 1 of query and key rows; keys 2j and 2j + 1
// of values; a missing one is 0). The shapes below are for f32; for pairs, the number of dims or rows is
// halved and rounded up. Rows are given by stride or by pointer, elements of a row are contiguous; nothing
// past a row's `dim` elements is read.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/cpu.h"
#include "kernels/element.h"

namespace kumiko::kernels {

/// B panel of the score product: dst[d][nr] = round(rows[n][d] * scale); lanes past `rows_used` become 0.
struct PackQueryArgs {
  const void* const* rows;  ///< [rows_used]
  std::int64_t rows_used;   ///< 1..nr
  std::int64_t nr;          ///< a multiple of the lanes
  std::int64_t dim;
  float scale;  ///< product bf16: 1, -1 or 0
  void* dst;    ///< [dim][nr]
};

/// A panels of the score product: dst[panel][d][mr] = src[panel * mr + m][d]; rows past `rows` become 0.
struct PackKeyArgs {
  const void* src;
  std::int64_t stride;  ///< elements from one key to the next
  std::int64_t rows;
  std::int64_t dim;
  void* dst;  ///< [ceil(rows / mr)][dim][mr]
};

/// A panels of the output product: dst[panel][j][mr] = src[j][panel * mr + m]; dims past `dim` become 0.
struct PackValueArgs {
  const void* src;
  std::int64_t stride;
  std::int64_t rows;
  std::int64_t dim;
  void* dst;  ///< [ceil(dim / mr)][rows][mr]
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
  /// Returns true if every value is finite.
  bool (*value)(const PackValueArgs&) noexcept;
};

std::span<const PackKernel> pack_kernels();
const PackKernel* find_pack(Isa isa, Element element);

}  // namespace kumiko::kernels
