// SPDX-License-Identifier: Apache-2.0
// The score step of the walk: a product of panels or precomputed scores, the terms, and hidden scores.
#include <algorithm>
#include <limits>

#include "kernels/pipelines/row_places.h"
#include "kernels/pipelines/walk.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kLineBytes = 64;

}  // namespace

/// How many of `rows` rows the last panel has, if the product can leave out the rest of that panel; else 0.
std::int64_t Walk::last_rows(const Tile& tile, std::int64_t rows) const {
  const std::int64_t rest = rows % kernels_.mr;
  return kernels_.gemm[tile.nr / kernels_.lanes - 1]->takes_last_rows(rest) ? rest : 0;
}

/// Computes the scores of panels [from, to) of the block, into S^T from row `at` on.
void Walk::product(const Tile& tile, const Block& block, const Slot& slot, std::int64_t at, std::int64_t from,
                   std::int64_t to, float* block_max) const {
  if (from >= to) return;
  const std::int64_t keys = block.last - block.first;
  const std::int64_t width = tile.nr / kernels_.lanes - 1, panel = kernels_.panel_bytes(head_->head_dim);
  const GemmArgs args{keys_ + from * panel,
                      panel,
                      tile.q,
                      slot.scores + at * tile.nr,
                      kernels_.score_steps(head_->head_dim),
                      to - from,
                      tile.q_range,
                      block_max,
                      key_range_ + from * kernels_.mr,
                      to * kernels_.mr > keys ? last_rows(tile, keys) : 0};
  if (kernels_.int8) return kernels_.int8->tile[width](&args);
  const GemmKernel& gemm = *kernels_.gemm[width];
  run_product(block_max ? gemm.init_max : gemm.init, args, tile.nr, panel);
}

/// Visible keys of each lane, counted from `origin`. Lanes without a query see everything, so that they need
/// no mask.
void Walk::lane_intervals(const Tile& tile, std::int64_t origin, std::int64_t count, std::int32_t* begin,
                          std::int32_t* end) const {
  // The last keys of a block that is not a whole number of panels come here in every tile, though all rows
  // see them. Asking each row, with a division by the group, would be 1.7 % of f16 attention on A64FX by its
  // model.
  if (head_->begin_of(tile.row + tile.used - 1) <= origin && head_->end_of(tile.row) >= origin + count) {
    std::fill_n(begin, tile.nr, 0);
    std::fill_n(end, tile.nr, static_cast<std::int32_t>(count));
    return;
  }
  for (std::int64_t n = 0; n < tile.nr; ++n) {
    const std::int64_t row = tile.row + n;
    const bool used = n < tile.used;
    begin[n] = used ? static_cast<std::int32_t>(max_of(min_of(head_->begin_of(row) - origin, count), 0)) : 0;
    end[n] = used ? static_cast<std::int32_t>(max_of(min_of(head_->end_of(row) - origin, count), 0))
                  : static_cast<std::int32_t>(count);
  }
}

/// Where the first tokens end among rows [from, to) of a run.
std::int64_t Walk::first_tokens_end(const Run& run, std::int64_t from, std::int64_t to) const {
  return max_of(from, min_of(to, head_->first_tokens - run.first));
}

/// Rows [from, to) of a run: hidden scores become -inf (0 without a softmax), the others raise block_max.
void Walk::hide(const Tile& tile, const Slot& slot, const Run& run, std::int64_t from, std::int64_t to,
                float* block_max) const {
  if (from >= to) return;
  alignas(64) std::int32_t begin[kMaxLanes], end[kMaxLanes];
  lane_intervals(tile, run.first, run.count, begin, end);
  const auto hide_rows = [&](std::int64_t first, std::int64_t last, const std::int32_t* begins) {
    if (first >= last) return;
    const MaskArgs args{slot.scores + (run.at + first) * tile.nr,
                        last - first,
                        tile.nr,
                        static_cast<std::int32_t>(first),
                        begins,
                        end,
                        block_max};
    (head_->has_softmax ? kernels_.softmax->mask_scores : kernels_.score_tile->zero_hidden)(args);
  };
  const std::int64_t first_end = first_tokens_end(run, from, to);
  alignas(64) static constexpr std::int32_t kFromTheFirst[kMaxLanes] = {};
  hide_rows(from, first_end, kFromTheFirst);
  hide_rows(first_end, to, begin);
}

/// Loads the precomputed scores of the slot's only run.
void Walk::load_scores(const Tile& tile, Slot& slot, bool all_visible) const {
  const Run& run = slot.runs.run[0];
  const void* rows[kMaxLanes];
  float unused[kMaxLanes] = {};
  const void* const first = element_at(Element::f32, head_->scores, run.first);  // 4 bytes, either type
  for_rows(*head_, tile.row, tile.used, {head_->scores_head_stride, head_->scores_seq_stride},
           [&](std::int64_t n, std::int64_t at) { rows[n] = element_at(Element::f32, first, at); });
  const LoadScoresArgs args{rows,
                            tile.used,
                            run.count,
                            tile.nr,
                            head_->q_scale,
                            slot.scores,
                            all_visible ? slot.block_max : unused};
  (head_->integer_scores ? kernels_.score_tile->load_i32 : kernels_.score_tile->load_f32)(args);
  if (!all_visible) hide(tile, slot, run, 0, run.count, slot.block_max);
}

/// Computes the scores of one run of panels, with the softcap, bias, ALiBi and mask of `terms`.
void Walk::scores_with_terms(const Tile& tile, const Block& block, const Run& run, const ScoreTerms& terms,
                             Slot& slot) const {
  const std::int64_t mr = kernels_.mr, from = (run.first - block.first) / mr;
  product(tile, block, slot, run.at, from, from + (run.count + mr - 1) / mr, nullptr);
  const void* bias[kMaxLanes];
  const std::uint8_t* mask[kMaxLanes];
  alignas(64) float slope[kMaxLanes];
  alignas(64) std::int32_t position[kMaxLanes];
  for (std::int64_t n = 0; n < tile.nr; ++n) {
    const std::int64_t row =
        tile.row + min_of(n, tile.used - 1);  // absent queries read the rows of the last one
    if (terms.has_bias) bias[n] = head_->bias_row(row, run.first);
    if (terms.has_mask)
      mask[n] = masks_[row - tile.row] + (run.first - block.first) * head_->terms.mask_stride;
    if (terms.has_alibi) {
      slope[n] = head_->slope_of(row);
      position[n] = head_->position_of(row, run.first);
    }
  }
  kernels_.score->tile({slot.scores + run.at * tile.nr, run.count, tile.nr, &terms, bias, mask, slope,
                        position, kernels_.score_scale(head_->q_scale)});
  hide(tile, slot, run, 0, run.count, slot.block_max);
}

/// Computes the scores of whole panels that every query sees, times the factor that the product does not
/// apply. Rounding keeps their order, so maxima are found before it. With a separate pass for maxima,
/// attention to half of the 64 x 64 blocks took 1.03 of the time (pairs, D = 128, Zen 5).
void Walk::scaled_scores(const Tile& tile, const Block& block, const Run& run, const ScoreTerms& terms,
                         const Slot& slot, float* block_max) const {
  alignas(64) float largest[kMaxLanes];
  std::fill_n(largest, tile.nr, kMinusInfinity);
  const std::int64_t from = (run.first - block.first) / kernels_.mr;
  product(tile, block, slot, run.at, from, from + run.count / kernels_.mr, largest);
  const float scale = kernels_.score_scale(head_->q_scale);
  kernels_.score->tile({slot.scores + run.at * tile.nr, run.count, tile.nr, &terms, nullptr, nullptr, nullptr,
                        nullptr, scale});
  for (std::int64_t n = 0; n < tile.nr; ++n) block_max[n] = std::max(block_max[n], largest[n] * scale);
}

/// Sets masks_ to the mask's rows for a tile's queries. Rows made from lists are shared by all queries with
/// the same lists: asking for each row, with divisions, took 5 % of block-sparse attention (pairs, tiles of
/// 32 rows, Zen 5).
void Walk::set_masks(const Tile& tile, const Block& block) const {
  const KeyLists& lists = head_->lists;
  const std::int64_t group = head_->group;
  const bool are_shared = lists.any() && !head_->mask && lists.are_of_queries(group);
  for (std::int64_t n = 0, end = 0; n < tile.used; n = end) {
    const std::int64_t row = tile.row + n;
    const std::uint8_t* mask =
        mask_of_row(*head_, row, block.first, block.last - block.first, made_masks_ + n * kBlockKeys);
    end = are_shared ? min_of(lists.same_until(row / group) * group - tile.row, tile.used) : n + 1;
    std::fill(masks_ + n, masks_ + end, mask);
  }
}

/// Which of `keys` keys from `first` on the masks of a tile's queries show.
TileMask Walk::tile_mask(const Tile& tile, const Block& block, std::int64_t first, std::int64_t keys) const {
  TileMask mask(keys);
  const std::int64_t stride = head_->terms.mask_stride, from = (first - block.first) * stride;
  const std::uint8_t* rows[TileMask::kRows];
  int count = 0;
  for (std::int64_t n = 0; n < tile.used; ++n) {
    if (n > 0 && masks_[n] == masks_[n - 1]) continue;  // a mask that heads or positions share
    rows[count++] = masks_[n] + from;
    if (count == TileMask::kRows) mask.add(rows, stride), count = 0;
  }
  if (count == 0) return mask;
  std::fill(rows + count, std::end(rows), rows[0]);
  mask.add(rows, stride);
  return mask;
}

/// Fetches what tile_mask() reads for the next tile: rows of a mask are a page or more apart, so that no
/// hardware prefetcher does. Without it tile_mask() is 7.5 % of a dense prefill, half of whose 64 x 64
/// squares are hidden; with it the call takes 0.97 to 1.00 of the time, 0.95 to 0.99 with the mask in huge
/// pages (Zen 5, AVX-512, D = 128). Joining 64 keys of all rows in registers instead of row after row: 1.02
/// to 1.04, since each page is then visited four times.
void Walk::fetch_mask(const Tile& tile, std::int64_t first, std::int64_t keys) const {
  if (head_->terms.mask_stride != 1 || head_->lists.any()) return;
  const std::int64_t next = tile.row + tile.used, end = min_of(next + tile.used, range_->row_end);
  for (std::int64_t row = next; row < end; ++row) {
    const std::uint8_t* mask = head_->mask_row(row, first);
    for (std::int64_t j = 0; j < keys; j += kLineBytes) __builtin_prefetch(mask + j, 0, 2);
    __builtin_prefetch(mask + keys - 1, 0, 2);  // Rows need not begin at a cache line.
  }
}

/// Adds the runs of panels within [lo, hi) in which the mask shows a key to a query of the tile. `last`: end
/// of the keys.
void Walk::visible_runs(const Tile& tile, const Block& block, std::int64_t lo, std::int64_t hi,
                        std::int64_t last, Runs& runs) const {
  const std::int64_t mr = kernels_.mr, first = block.first + lo * mr;
  const bool may_hide = head_->masks(first, last);
  // Joined with the run before, these keys are part of a masked run: the gap between the two is hidden.
  if (may_hide || (kernels_.has_block_chains() && runs.size > 0)) set_masks(tile, block);
  if (!may_hide) return runs.join(first, last - first, true, kernels_.has_block_chains());
  const TileMask mask = tile_mask(tile, block, first, last - first);
  fetch_mask(tile, first, last - first);
  Sees open = Sees::nothing;
  for (std::int64_t panel = lo, begin = lo; panel <= hi; ++panel) {
    const Sees sees = panel < hi ? mask.seen((panel - lo) * mr, (panel - lo + 1) * mr) : Sees::nothing;
    if (sees == open) continue;
    const std::int64_t at = block.first + begin * mr;
    if (open != Sees::nothing)
      runs.join(at, min_of(block.first + panel * mr, last) - at, open == Sees::all,
                kernels_.has_block_chains());
    open = sees;
    begin = panel;
  }
}

/// Adds the runs of panels with a key that the tile may see, in a block with first tokens.
void Walk::first_runs(const Tile& tile, const Block& block, Runs& runs) const {
  const std::int64_t mr = kernels_.mr, hi = min_of(block.last, head_->end_of(tile.row + tile.used - 1)),
                     lo = max_of(block.first, head_->begin_of(tile.row));
  const auto panels_to = [&](std::int64_t key) { return (key - block.first + mr - 1) / mr; };
  const auto add = [&](std::int64_t from, std::int64_t to) {
    const std::int64_t first = block.first + from * mr, last = min_of(block.first + to * mr, hi);
    if (first >= last) return;
    if (head_->terms.has_mask)
      visible_runs(tile, block, from, to, last, runs);
    else
      runs.join(first, last - first, true, kernels_.has_block_chains());
  };
  const std::int64_t first_to = panels_to(min_of(head_->first_tokens, hi)),
                     window_from = (lo - block.first) / mr;
  if (window_from <= first_to) return add(0, panels_to(hi));
  add(0, first_to);
  add(window_from, panels_to(hi));
}

void Walk::score_with_first_tokens(const Tile& tile, const Block& block, Slot& slot) const {
  if (block.first >= head_->end_of(tile.row + tile.used - 1)) return;
  range_->enter(Phase::scores);
  for (std::int64_t n = 0; n < tile.nr; ++n) slot.block_max[n] = -std::numeric_limits<float>::infinity();
  first_runs(tile, block, slot.runs);
  for (std::int64_t r = 0; r < slot.runs.size; ++r) {
    const Run& run = slot.runs.run[r];
    ScoreTerms terms = head_->terms;
    terms.has_mask = terms.has_mask && !run.unmasked;
    if (head_->terms.any()) {
      scores_with_terms(tile, block, run, terms, slot);
      continue;
    }
    const std::int64_t mr = kernels_.mr, from = (run.first - block.first) / mr;
    product(tile, block, slot, run.at, from, from + (run.count + mr - 1) / mr, nullptr);
    hide(tile, slot, run, 0, run.count, slot.block_max);
  }
}

void Walk::score(const Tile& tile, const Block& block, Slot& slot) const {
  slot.runs.size = slot.runs.count = 0;
  if (block.first < head_->first_tokens) return score_with_first_tokens(tile, block, slot);
  const std::int64_t last_row = tile.row + tile.used - 1, mr = kernels_.mr;
  // Begin and end grow with the row, so the first and the last row bound what any row (lo, hi) and every row
  // (all_lo, all_hi) sees.
  const std::int64_t lo = max_of(block.first, head_->begin_of(tile.row)),
                     hi = min_of(block.last, head_->end_of(last_row));
  if (lo >= hi) return;
  range_->enter(Phase::scores);
  const std::int64_t all_lo = max_of(lo, head_->begin_of(last_row)),
                     all_hi = min_of(hi, head_->end_of(tile.row));
  const std::int64_t panel_lo = (lo - block.first) / mr, panel_hi = (hi - block.first + mr - 1) / mr;
  const std::int64_t first = block.first + panel_lo * mr;

  for (std::int64_t n = 0; n < tile.nr; ++n) slot.block_max[n] = -std::numeric_limits<float>::infinity();
  if (head_->terms.has_mask) {
    visible_runs(tile, block, panel_lo, panel_hi, hi, slot.runs);
  } else {
    slot.runs.add(first, hi - first, true);
  }
  if (head_->scores) return load_scores(tile, slot, all_lo <= first && all_hi == hi);
  if (head_->terms.any()) {
    for (std::int64_t r = 0; r < slot.runs.size; ++r) {
      const Run& run = slot.runs.run[r];
      ScoreTerms terms = head_->terms;
      terms.has_mask = terms.has_mask && !run.unmasked;
      const std::int64_t from = (run.first - block.first) / mr;
      // Where no term changes the scores afterwards, the product's maxima are final.
      const bool plain =
          !terms.any() && run.count % mr == 0 && run.first >= all_lo && run.first + run.count <= all_hi;
      if (plain && kernels_.score_scale(head_->q_scale) == 1.0f)
        product(tile, block, slot, run.at, from, from + run.count / mr, slot.block_max);
      else if (plain)
        scaled_scores(tile, block, run, terms, slot, slot.block_max);
      else
        scores_with_terms(tile, block, run, terms, slot);
    }
    return;
  }
  // Only panels of which some row does not see every key are masked.
  std::int64_t full_lo = (all_lo - block.first + mr - 1) / mr,
               full_hi = all_hi > block.first ? (all_hi - block.first) / mr : 0;
  // A last panel whose missing keys the product leaves out is as good as full.
  if (all_hi == block.last && last_rows(tile, block.last - block.first) != 0) full_hi = panel_hi;
  if (full_lo >= full_hi) full_lo = full_hi = panel_hi;  // no panel is seen by all: one masked stretch
  float* block_max = head_->has_softmax ? slot.block_max : nullptr;
  product(tile, block, slot, (full_lo - panel_lo) * mr, full_lo, full_hi, block_max);
  if (panel_lo == full_lo && full_hi == panel_hi) return;
  product(tile, block, slot, 0, panel_lo, full_lo, nullptr);
  product(tile, block, slot, (full_hi - panel_lo) * mr, full_hi, panel_hi, nullptr);
  const Run& run = slot.runs.run[0];
  hide(tile, slot, run, 0, min_of((full_lo - panel_lo) * mr, run.count), block_max);
  hide(tile, slot, run, (full_hi - panel_lo) * mr, run.count, block_max);
}

}  // namespace kumiko::kernels
