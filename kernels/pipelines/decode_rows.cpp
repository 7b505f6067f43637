// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/decode_rows.h"

#include <bit>

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kMostGroups = kBlockKeys / kLeastGroup + 1;  // and pieces of memory, of a block

// Rows with those of other heads between them: the hardware fetches past each row's end, and its L1 sets
// meet those of rows a few further on. Read loop over such rows, Zen 5: 0.58 of what it has where they are
// adjacent; decode 0.41 without the L2, 0.53 with it (f32, 8 KV heads of D = 128). At the end of a page the
// hardware has nothing to go on. (A Zen 3 drops prefetches when it has many: there it is better off without.)
FetchDistances fetch_distances(const KernelSet& kernels, const HeadProblem& head) {
  FetchDistances fetch = kernels.fetch;
  const bool apart =
      head.k.stride != head.head_dim || (head.value_in_key < 0 && head.v.stride != head.v_head_dim);
  if (head.k.pages || apart) fetch.l2 = max_of(fetch.l2, fetch.l2_apart);
  return fetch;
}

}  // namespace

DecodeRows::DecodeRows(Carver& carver, const KernelSet& kernels, std::int64_t head_dim,
                       std::int64_t v_head_dim)
    : kernels_(kernels),
      k_group_(carver.take<const void*>(kMostGroups)),
      v_group_(carver.take<const void*>(kMostGroups)),
      ranges_(carver.take<RowRange>(3 * kMostGroups)) {
  const std::int64_t copied = copies_rows(kernels) ? kBlockKeys : 0;
  k_ = carver.take<std::byte>(copied * head_dim * bytes_of(kernels.types.key));
  v_ = carver.take<std::byte>(copied * v_head_dim * bytes_of(kernels.types.value));
}

void DecodeRows::begin(const HeadProblem& head) {
  head_ = &head;
  fetch_ = fetch_distances(kernels_, head);
  if (!head.k.pages || copies_rows(kernels_)) return;
  const std::int64_t rows = fetch_.l2 / (head.head_dim * bytes_of(kernels_.types.key));
  range_rows_ = fetch_.l2 == 0
                    ? head.k.page_keys
                    : min_of(max_of(rows / kLeastGroup * kLeastGroup, kLeastGroup), head.k.page_keys);
  l2_ranges_ = max_of(rows / range_rows_, 1);
}

DecodeBlock DecodeRows::block(const KeyRange& block, std::int64_t last) const {
  DecodeBlock made{};
  made.k = groups(head_->k, kernels_.types.key, head_->head_dim, block, k_, k_group_);
  made.v = head_->value_in_key < 0
               ? groups(head_->v, kernels_.types.value, head_->v_head_dim, block, v_, v_group_)
               : groups_in_keys(made.k, block);
  list(block, last, &made);
  return made;
}

/// The block's rows of K or V, where they lie or in `copy`.
RowGroups DecodeRows::groups(const KeyRows& rows, Element element, std::int64_t dim, const KeyRange& block,
                             std::byte* copy, const void** group) const {
  constexpr int kOneGroup = std::countr_zero(static_cast<std::uint64_t>(kBlockKeys));
  if (!rows.pages) {
    *group = rows.row(element, block.first);
    return {group, rows.stride, kOneGroup};
  }
  if (copies_rows(kernels_)) {
    rows.copy(element, dim, block.first, block.last, copy);
    *group = copy;
    return {group, dim, kOneGroup};
  }
  // The largest groups that begin with the block and with each page.
  const int shift = std::countr_zero(static_cast<std::uint64_t>(rows.page_keys | block.first | kBlockKeys));
  const void** at = group;
  for (std::int64_t key = block.first; key < block.last; key += std::int64_t{1} << shift)
    *at++ = rows.row(element, key);
  return {group, rows.stride, shift};
}

/// Values in the keys' rows: where scores() has just read them.
RowGroups DecodeRows::groups_in_keys(const RowGroups& keys, const KeyRange& block) const {
  const std::int64_t count = ((block.last - block.first - 1) >> keys.shift) + 1;
  for (std::int64_t i = 0; i < count; ++i)
    v_group_[i] = element_at(kernels_.types.key, keys.group[i], head_->value_in_key);
  return {v_group_, keys.stride, keys.shift};
}

/// The block's keys, its values, the next block's keys.
void DecodeRows::list(const KeyRange& block, std::int64_t last, DecodeBlock* to) const {
  const Element key = kernels_.types.key, value = kernels_.types.value;
  RowRange *const keys = ranges_, *values = keys + 1, *next = keys + 2;
  if (copies_rows(kernels_)) {  // They lie in the caches.
    const std::int64_t width = head_->head_dim * bytes_of(key), count = block.last - block.first;
    keys[0] = {reinterpret_cast<const char*>(k_), width, width, count};
    keys[1] = {static_cast<const char*>(v_group_[0]), to->v.stride * bytes_of(value),
               head_->v_head_dim * bytes_of(value), count};
    keys[2] = keys[1];
    keys[2].rows = kNoEnd;
  } else {
    // Past the end of a dense tensor a prefetch does no harm; a block table has no entries there.
    const std::int64_t next_end =
        head_->k.pages ? min_of(block.last + kBlockKeys, last) : block.last + kBlockKeys;
    values = head_->k.list(key, head_->head_dim, block.first, block.last, range_rows_, keys);
    next = head_->v.list(value, head_->v_head_dim, block.first, block.last, range_rows_, values);
    RowRange* end = head_->k.list(key, head_->head_dim, block.last, next_end, range_rows_, next);
    if (end == next) *end++ = next[-1];
    set_l2_ahead(keys, end);
    end[-1].rows = kNoEnd;
  }
  to->from_keys = {keys, values};
  to->from_values = {values, next};
}

/// With each row the one FetchDistances::l2 further on: in the same range, or some ranges further on.
void DecodeRows::set_l2_ahead(RowRange* begin, RowRange* end) const {
  if (fetch_.l2 == 0) return;
  for (RowRange* range = begin; range < end; ++range) {
    if (!head_->k.pages) {
      range->l2_ahead = fetch_.l2 / range->width * range->stride;
    } else if (end - range > l2_ranges_) {
      range->l2_ahead = range[l2_ranges_].row - range->row;
    }
  }
}

}  // namespace kumiko::kernels
