// SPDX-License-Identifier: Apache-2.0
// The loops of arm_sve512_values.S, and WholeValues of values.h, which uses them.
#pragma once

#include <cstddef>

#include "kernels/decode/values.h"
#include "kernels/simd/sve512.h"

namespace kumiko::kernels {
namespace {

/// One or more keys at a constant stride, four rows and four vectors. The assembly knows the offsets.
struct ValueKeys {
  const void* v;
  std::int64_t v_bytes;  ///< from one key to the next
  const void* p;
  std::int64_t p_bytes;  ///< from one row to the next
  std::int64_t keys;
  std::int64_t lines;  ///< to fetch with each key: 0 or 1
  void* sum;
  std::int64_t sum_bytes;  ///< from one row to the next
  void* more;              ///< four vectors: sums of weights in every lane, or of squares; else not used
  RowFetcher* ahead;
};
static_assert(offsetof(ValueKeys, ahead) == 72);

/// The offsets in the fetcher that arm_sve512_fetch.inc knows.
struct RowFetcherLayout {
  static_assert(offsetof(RowFetcher, line_) == 16 && offsetof(RowFetcher, row_end_) == 24 &&
                offsetof(RowFetcher, at_) == 32 && offsetof(RowFetcher, next_) == 72);
  static_assert(offsetof(RowRange, stride) == 8 && offsetof(RowRange, width) == 16 &&
                offsetof(RowRange, rows) == 24 && offsetof(RowRange, l2_ahead) == 32 &&
                sizeof(RowRange) == 40);
};

}  // namespace

extern "C" {
void decode_f32_sve512_values(const ValueKeys*) noexcept;
void decode_f32_sve512_values_and_sums(const ValueKeys*) noexcept;
void decode_f16_sve512_values(const ValueKeys*) noexcept;
void decode_f16_sve512_values_and_squares(const ValueKeys*) noexcept;
}

namespace {

/// Calls `add` for keys [first, end) of the block, as many at a time as are at a constant stride.
template <class T, class Add>
void add_keys_in_step(const RowGroups& values, std::int64_t first, std::int64_t end, Add add) {
  for (std::int64_t j = first, stop; j < end; j = stop) {
    stop = group_end(values, j) < end ? group_end(values, j) : end;
    add(row_of<T>(values, j), j, stop - j);
  }
}

template <>
struct WholeValues<Sve512, float, 4, 4> {
  static constexpr bool kIsBetter = true;
  template <bool kLast>
  static void add(const DecodeValuesArgs& args, std::int64_t row, const ValuePart& part, RowFetcher& ahead) {
    using V = Sve512;
    const std::int64_t d = part.first * V::kLanes, lines = part.lines < 1 ? part.lines : 1;
    for (std::int64_t i = lines * (part.end_key - part.first_key);
         i < part.lines * (part.end_key - part.first_key); ++i)
      ahead.fetch_line();
    alignas(64) float weight[4][V::kLanes];
    for (int r = 0; r < 4 && kLast; ++r) V::store(weight[r], V::set1(args.l[row + r]));
    add_keys_in_step<float>(args.v, part.first_key, part.end_key,
                            [&](const float* v, std::int64_t j, std::int64_t keys) {
                              const ValueKeys of{v + d,
                                                 args.v.stride * 4,
                                                 args.p + row * args.p_stride + j,
                                                 args.p_stride * 4,
                                                 keys,
                                                 lines,
                                                 args.o + row * args.o_stride + d,
                                                 args.o_stride * 4,
                                                 weight,
                                                 &ahead};
                              (kLast ? decode_f32_sve512_values_and_sums : decode_f32_sve512_values)(&of);
                            });
    for (int r = 0; r < 4 && kLast; ++r) args.l[row + r] = weight[r][0];
  }
};

}  // namespace
}  // namespace kumiko::kernels
