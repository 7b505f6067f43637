// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/decode_rows.h"

#include <bit>

namespace kumiko::kernels {

DecodeRows::DecodeRows(Carver& carver, const KernelSet& kernels, std::int64_t head_dim,
                       std::int64_t v_head_dim)
    : kernels_(kernels),
      k_group_(carver.take<const void*>(kMostGroups)),
      v_group_(carver.take<const void*>(kMostGroups)) {
  const std::int64_t copied = copies_rows(kernels) ? kBlockKeys : 0;
  k_ = carver.take<std::byte>(copied * head_dim * bytes_of(kernels.types.key));
  v_ = carver.take<std::byte>(copied * v_head_dim * bytes_of(kernels.types.value));
}

DecodeBlock DecodeRows::block(const KeyRange& block, std::int64_t part_keys) const {
  DecodeBlock made{};
  made.k = groups(head_->k, kernels_.types.key, head_->head_dim, block, part_keys, k_, k_group_);
  made.v = head_->value_in_key < 0
               ? groups(head_->v, kernels_.types.value, head_->v_head_dim, block, part_keys, v_, v_group_)
               : groups_in_keys(made.k, block);
  return made;
}

/// The block's rows of K or V, in place or in `copy`.
RowGroups DecodeRows::groups(const KeyRows& rows, Element element, std::int64_t dim, const KeyRange& block,
                             std::int64_t part_keys, std::byte* copy, const void** group) const {
  const auto shift_of = [](std::int64_t keys) { return std::countr_zero(static_cast<std::uint64_t>(keys)); };
  if (copies_rows(kernels_)) {
    rows.copy(element, dim, block.first, block.last, copy);
    *group = copy;
    return {group, dim, shift_of(kBlockKeys)};
  }
  // The largest groups that begin with the block, each page and each part.
  const int shift = shift_of(rows.pages ? rows.page_keys | block.first | part_keys : part_keys);
  const void** at = group;
  for (std::int64_t key = block.first; key < block.last; key += std::int64_t{1} << shift)
    *at++ = rows.row(element, key);
  return {group, rows.stride, shift};
}

/// Values that are part of the keys' rows, which scores() has just read.
RowGroups DecodeRows::groups_in_keys(const RowGroups& keys, const KeyRange& block) const {
  const std::int64_t count = ((block.last - block.first - 1) >> keys.shift) + 1;
  for (std::int64_t i = 0; i < count; ++i)
    v_group_[i] = element_at(kernels_.types.key, keys.group[i], head_->value_in_key);
  return {v_group_, keys.stride, keys.shift};
}

}  // namespace kumiko::kernels
