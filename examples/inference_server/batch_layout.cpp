// SPDX-License-Identifier: Apache-2.0
#include "batch_layout.h"

#include <algorithm>

namespace inference {

BatchLayout BatchLayout::make(std::span<const std::int64_t> lengths) {
  BatchLayout layout;
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    layout.sequences.push_back({static_cast<std::int64_t>(i), lengths[i], 0, 0});
  }
  std::stable_sort(layout.sequences.begin(), layout.sequences.end(),
                   [](const Sequence& a, const Sequence& b) { return a.length < b.length; });
  for (std::size_t i = 0; i < layout.sequences.size(); ++i) {
    Sequence& sequence = layout.sequences[i];
    sequence.packed_row = layout.tokens;
    layout.tokens += sequence.length;
    if (layout.groups.empty() || group_bound(layout.groups.back().q_len) != group_bound(sequence.length)) {
      layout.groups.emplace_back().first = static_cast<std::int64_t>(i);
    }
    layout.groups.back().q_len = sequence.length;  // ascending: the last one is the longest
    layout.groups.back().lengths.push_back(static_cast<std::int32_t>(sequence.length));
  }
  for (Group& group : layout.groups) {
    group.padded_row = layout.padded_rows;
    for (std::size_t i = 0; i < group.lengths.size(); ++i) {
      layout.sequences[static_cast<std::size_t>(group.first) + i].padded_row = layout.padded_rows;
      layout.padded_rows += group.q_len;
    }
  }
  return layout;
}

}  // namespace inference
