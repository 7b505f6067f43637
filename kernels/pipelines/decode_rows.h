// SPDX-License-Identifier: Apache-2.0
// Where the rows of keys and values are that decode reads for one block of a head.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

struct KeyRange {
  std::int64_t first, last;
  bool empty() const { return first >= last; }
};

/// Whether the rows of a block are copied together before they are read.
inline bool copies_rows(const KernelSet& kernels) {
  return kernels.page_keys % kLeastGroup != 0;
}

/// The most groups of a block, and the most contiguous pieces that its rows are in.
inline constexpr std::int64_t kMostGroups = kBlockKeys / kLeastGroup + 1;

/// The rows of one block.
struct DecodeBlock {
  RowGroups k, v;
};

class DecodeRows {
 public:
  /// Takes its memory from `carver`.
  DecodeRows(Carver& carver, const KernelSet& kernels, std::int64_t head_dim, std::int64_t v_head_dim);
  void begin(const HeadProblem& head) { head_ = &head; }
  const HeadProblem& head() const { return *head_; }

  /// part_keys: a power of two, the most keys of a group. The result holds until the next call.
  DecodeBlock block(const KeyRange& block, std::int64_t part_keys) const;
  /// Only where rows are copied together: the copies of the last block.
  const std::byte* copied_keys() const { return k_; }
  const void* copied_values() const { return v_group_[0]; }

 private:
  RowGroups groups(const KeyRows& rows, Element element, std::int64_t dim, const KeyRange& block,
                   std::int64_t part_keys, std::byte* copy, const void** group) const;
  RowGroups groups_in_keys(const RowGroups& keys, const KeyRange& block) const;

  const KernelSet& kernels_;
  const HeadProblem* head_ = nullptr;
  const void **k_group_, **v_group_;
  std::byte *k_, *v_;  // rows copied together; only for pages whose size is not a multiple of a group
};

/// The rows from key `first` of the block on, a multiple of a group's keys.
inline RowGroups part_of(const RowGroups& rows, std::int64_t first) {
  return {rows.group + (first >> rows.shift), rows.stride, rows.shift};
}

}  // namespace kumiko::kernels
