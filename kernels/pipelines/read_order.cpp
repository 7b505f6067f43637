// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/read_order.h"

namespace kumiko::kernels {
namespace {

// Where rows of other heads are between these rows, the hardware prefetches past each row's end, and these
// lines share L1 sets with rows a few further on. A read loop over such rows has 0.58 of its bandwidth over
// adjacent rows, decode 0.41 without fetches into L2 and 0.53 with them (Zen 5, f32, 8 KV heads of D = 128).
// At the end of a page the hardware cannot know what follows. (Zen 3 drops prefetches when there are many,
// and is faster without these.)
FetchDistances fetch_distances(const KernelSet& kernels, const HeadProblem& head) {
  FetchDistances fetch = kernels.fetch;
  const bool apart =
      head.k.stride != head.head_dim || (head.value_in_key < 0 && head.v.stride != head.v_head_dim);
  if (head.k.pages || apart) fetch.l2 = max_of(fetch.l2, fetch.l2_apart);
  return fetch;
}

}  // namespace

ReadOrder::ReadOrder(Carver& carver, std::int64_t heads)
    : ranges_(carver.take<RowRange>(3 * heads * kMostGroups)) {}

void ReadOrder::begin(const KernelSet& kernels, std::span<const DecodeRows* const> heads) {
  kernels_ = &kernels;
  heads_ = heads;
  const HeadProblem& head = heads[0]->head();
  fetch_ = fetch_distances(kernels, head);
  const bool in_turn = heads.size() > 1;
  part_keys_ = in_turn ? turn_keys(kernels) : kBlockKeys;
  if (in_turn) fetch_.values = fetch_.keys;  // One head's softmax is too short to fetch for all heads.
  if ((!head.k.pages && !in_turn) || copies_rows(kernels)) return;
  // With heads in turn at least the rows of two parts, which are close together: AVX-512, D = 128, 64 rows
  // ahead 0.56 of the limit (bf16 pairs) and 0.61 (f32), 128 rows 0.70 and 0.66 (Zen 4).
  const std::int64_t rows = max_of(fetch_.l2 / (head.head_dim * bytes_of(kernels.types.key)),
                                   in_turn ? 2 * kTurnKeys : 0),
                     piece = head.k.pages ? head.k.page_keys : kNoEnd,
                     most = in_turn ? min_of(piece, part_keys_) : piece;
  range_rows_ = fetch_.l2 == 0 ? most : min_of(max_of(rows / kLeastGroup * kLeastGroup, kLeastGroup), most);
  l2_ranges_ = max_of(rows / range_rows_, 1);
}

void ReadOrder::set(const KeyRange& block, const KeyRange& next) {
  if (copies_rows(*kernels_)) return set_of_copies(block);
  RowRange* at = ranges_;
  const auto list_block = [&](bool is_keys, auto& begin) {
    for (std::int64_t part = 0, first = block.first; first < block.last; ++part, first += part_keys_) {
      for (std::size_t i = 0; i < heads_.size(); ++i) {
        begin[part][i] = at;
        at = list(is_keys, {first, min_of(first + part_keys_, block.last)}, i, at);
      }
    }
  };
  list_block(true, keys_);
  first_value_ = at;
  list_block(false, values_);
  first_next_ = at;
  // Fetches from this block on do not go beyond the first part of the next block.
  const KeyRange part{next.first, min_of(next.last, next.first + part_keys_)};
  for (std::size_t i = 0; i < heads_.size() && !part.empty(); ++i) at = list(true, part, i, at);
  if (at == first_next_) *at = at[-1], ++at;
  set_l2_ahead(ranges_, at);
  at[-1].rows = kNoEnd;
}

/// Copies are in the caches already.
void ReadOrder::set_of_copies(const KeyRange& block) {
  const HeadProblem& head = heads_[0]->head();
  const std::int64_t k_width = head.head_dim * bytes_of(kernels_->types.key),
                     v_width = head.v_head_dim * bytes_of(kernels_->types.value),
                     count = block.last - block.first;
  const bool in_keys = head.value_in_key >= 0;
  ranges_[0] = {reinterpret_cast<const char*>(heads_[0]->copied_keys()), k_width, k_width, count};
  ranges_[1] = {static_cast<const char*>(heads_[0]->copied_values()), in_keys ? k_width : v_width, v_width,
                count};
  ranges_[2] = ranges_[1];
  ranges_[2].rows = kNoEnd;
  keys_[0][0] = ranges_;
  values_[0][0] = first_value_ = ranges_ + 1;
  first_next_ = ranges_ + 2;
}

RowRange* ReadOrder::list(bool is_keys, const KeyRange& keys, std::size_t i, RowRange* to) const {
  const HeadProblem& head = heads_[i]->head();
  return is_keys
             ? head.k.list(kernels_->types.key, head.head_dim, keys.first, keys.last, range_rows_, to)
             : head.v.list(kernels_->types.value, head.v_head_dim, keys.first, keys.last, range_rows_, to);
}

/// Along with each row, the row that is FetchDistances::l2 further on is fetched into L2: in the same range,
/// or l2_ranges_ ranges further on.
void ReadOrder::set_l2_ahead(RowRange* begin, RowRange* end) const {
  if (fetch_.l2 == 0) return;
  for (RowRange* range = begin; range < end; ++range) {
    if (range_rows_ == kNoEnd) {
      range->l2_ahead = fetch_.l2 / range->width * range->stride;
    } else if (end - range > l2_ranges_) {
      range->l2_ahead = range[l2_ranges_].row - range->row;
    }
  }
}

}  // namespace kumiko::kernels
