// SPDX-License-Identifier: Apache-2.0
// Where a tile's rows are, computed from row to row without divisions. One division a row was 1.5 % of
// softmax_pv in f16 on A64FX by its model. With two a row, a call to end each row and more memory set to 0,
// 16 queries and keys of 32 dims took 1.15 of the time that they took before there were pages; now it is 0.96
// (Zen 3, docs/limits.md).
#pragma once

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

struct RowStrides {
  std::int64_t head, seq;  ///< elements
};

/// Calls place(n, at) for n in [0, count): row `row` + n of the KV head lies at element `at`.
template <class Place>
void for_rows(const HeadProblem& head, std::int64_t row, std::int64_t count, RowStrides stride, Place place) {
  // Unsigned, so that it may wrap: the place after the last row may be out of range.
  const auto to_head = static_cast<std::uint64_t>(stride.head),
             to_position = static_cast<std::uint64_t>(stride.seq) -
                           static_cast<std::uint64_t>(head.group - 1) * to_head;
  std::int64_t of_group = row % head.group;
  auto at = static_cast<std::uint64_t>(row / head.group * stride.seq + of_group * stride.head);
  for (std::int64_t n = 0; n < count; ++n) {
    place(n, static_cast<std::int64_t>(at));
    const bool is_last = ++of_group == head.group;
    at += is_last ? to_position : to_head;
    if (is_last) of_group = 0;
  }
}

}  // namespace kumiko::kernels
