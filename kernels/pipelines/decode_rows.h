// SPDX-License-Identifier: Apache-2.0
// Which rows of keys and values a block of decode reads, where they lie, and what is fetched meanwhile.
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

/// The rows of one block.
struct DecodeBlock {
  RowGroups k, v;
  RowList from_keys, from_values;  ///< what is read from then on
};

class DecodeRows {
 public:
  /// Takes its memory from `carver`.
  DecodeRows(Carver& carver, const KernelSet& kernels, std::int64_t head_dim, std::int64_t v_head_dim);
  void begin(const HeadProblem& head);

  const FetchDistances& fetch() const { return fetch_; }
  /// Rows of keys [block.first, block.last); those from `last` on, which no query sees, may have no memory.
  /// The result holds until the next call.
  DecodeBlock block(const KeyRange& block, std::int64_t last) const;

 private:
  RowGroups groups(const KeyRows& rows, Element element, std::int64_t dim, const KeyRange& block,
                   std::byte* copy, const void** group) const;
  RowGroups groups_in_keys(const RowGroups& keys, const KeyRange& block) const;
  void list(const KeyRange& block, std::int64_t last, DecodeBlock* to) const;
  void set_l2_ahead(RowRange* begin, RowRange* end) const;

  const KernelSet& kernels_;
  const HeadProblem* head_ = nullptr;
  FetchDistances fetch_;
  std::int64_t range_rows_ = kNoEnd;  // of a range at most
  std::int64_t l2_ranges_ = 0;        // from a range to the one that is fetched into L2 with it
  const void **k_group_, **v_group_;
  RowRange* ranges_;   // in the order in which they are read
  std::byte *k_, *v_;  // rows copied together; only for pages whose size is no multiple of a group
};

}  // namespace kumiko::kernels
