// SPDX-License-Identifier: Apache-2.0
#include "kernels/pipelines/walk.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/pipelines/row_places.h"

namespace kumiko::kernels {
namespace {

/// Packing transposes rows into lanes, a few elements of all rows at a time, which hardware prefetchers do
/// not follow. This saves 0.8 % of the time of calls over 512 keys of 4096 rows (attention_continue(), Zen 5,
/// D = 128).
void fetch_row(const void* row, std::int64_t bytes) {
  constexpr std::int64_t kStep = 64;
  for (std::int64_t i = 0; i < bytes; i += kStep)
    __builtin_prefetch(static_cast<const std::byte*>(row) + i, 0, 3);
}

}  // namespace

std::int64_t rows_of_tile(const KernelSet& kernels, std::int64_t from, std::int64_t rows) {
  const std::int64_t widest = kernels.max_nr, strip = kernels.strip,
                     end = strip > widest ? min_of(rows, (from / strip + 1) * strip) : rows,
                     left = end - from;
  const bool leaves_one = left > widest && left <= widest + kernels.lanes && widest > 2 * kernels.lanes;
  return leaves_one ? widest - kernels.lanes : min_of(left, widest);
}

Walk::Walk(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim, std::int64_t v_head_dim,
           std::int64_t slots, std::byte* memory)
    : kernels_(kernels) {
  Carver carver(memory);
  o_rows_ = round_up(v_head_dim, kernels.mr);
  tile_count_ = tiles_of(kernels, rows);
  tiles_ = carver.take<Tile>(tile_count_);
  slots_ = carver.take<Slot>(slots);
  const std::int64_t block_rows = round_up(kBlockKeys, kernels.mr);
  keys_ = carver.take<std::byte>(block_rows / kernels.mr * kernels.panel_bytes(head_dim));
  values_ = carver.take<std::byte>(kBlockKeys * o_rows_ * kernels.step_bytes());
  key_range_ = carver.take<float>(kernels.has_ranges() ? block_rows : 0);
  const bool gathers = kernels.page_keys % kBlockKeys != 0;
  gathered_ = carver.take<std::byte>(gathers ? kBlockKeys * max_of(head_dim * bytes_of(kernels.types.key),
                                                                   v_head_dim * bytes_of(kernels.types.value))
                                             : 0);
  masks_ = carver.take<const std::uint8_t*>(kMaxLanes);
  made_masks_ = carver.take<std::uint8_t>(kernels.has_key_lists ? kernels.max_nr * kBlockKeys : 0);
  for (std::int64_t s = 0; s < slots; ++s) {
    float* scores = carver.take<float>(block_rows * kernels.max_nr + kSlotPadding);
    if (slots_) slots_[s].scores = scores;
  }
  for (std::int64_t t = 0, from = 0; t < tile_count_; ++t) {
    Tile tile;
    tile.from = from;
    tile.used = rows_of_tile(kernels, from, rows);
    from += tile.used;
    tile.nr = round_up(tile.used, kernels.lanes);
    tile.q = carver.take<std::byte>(kernels.query_bytes(head_dim, tile.nr));
    tile.q_range = carver.take<float>(kernels.has_ranges() ? tile.nr : 0);
    for (TileState* state : {&tile.split, &tile.total}) {
      const std::int64_t stages = state == &tile.split ? kernels.staged_splits : 1;
      state->m = carver.take<float>(stages * tile.nr);
      state->l = carver.take<float>(stages * tile.nr);
      state->o = carver.take<float>(o_rows_ * tile.nr);
    }
    if (tiles_) tiles_[t] = tile;
  }
  scratch_bytes_ = carver.used();
}

void Walk::begin(const HeadProblem& head, const TaskRange& range) {
  head_ = &head;
  range_ = &range;
  range.enter(Phase::queries);
  for (std::int64_t t = 0; t < tile_count_; ++t) {
    Tile& tile = tiles_[t];
    tile.row = range.row_begin + tile.from;
    tile.total_empty = true;
    tile.total_waits = head.running.loads() && !range.partial;
    if (tile.total_waits) fetch_running(tile);
    if (head.scores) continue;
    const void* rows[kMaxLanes];
    query_rows(tile, rows);
    if (kernels_.int8) {
      kernels_.int8->query({rows, tile.used, tile.nr, head.head_dim, tile.q});
      for (std::int64_t n = 0; n < tile.nr; ++n)
        tile.q_range[n] = n < tile.used ? head.q_factor(tile.row + n) : 0.0f;
      continue;
    }
    kernels_.pack->query(
        {rows, tile.used, tile.nr, head.head_dim, kernels_.query_scale(head.q_scale), tile.q, tile.q_range});
  }
}

void Walk::query_rows(const Tile& tile, const void** rows) const {
  const Element element = kernels_.types.query;
  const std::int64_t bytes = head_->head_dim * bytes_of(element);
  if (head_->q_offsets) {
    for (std::int64_t n = 0; n < tile.used; ++n) rows[n] = head_->q_row(element, tile.row + n);
  } else {
    for_rows(*head_, tile.row, tile.used, {head_->q_head_stride, head_->q_seq_stride},
             [&](std::int64_t n, std::int64_t at) { rows[n] = element_at(element, head_->q, at); });
  }
  for (std::int64_t n = 0; n < tile.used; ++n) fetch_row(rows[n], bytes);
}

Walk::Keys Walk::keys_of(std::int64_t split) const {
  // The two keys of a step are always the same two, wherever the first visible key is; so are the keys of a
  // tile.
  const std::int64_t per_step = head_->k.is_tiled ? kTileKeys : kernels_.per_step(),
                     first = head_->begin_of(range_->row_begin) / per_step * per_step;
  const std::int64_t place = SplitNumbers(*head_, range_->row_begin).place(split), begin = place * kSplitKeys,
                     end = min_of(begin + kSplitKeys, head_->end_of(range_->row_end - 1));
  const bool has_first_tokens = begin < head_->first_tokens;
  const std::int64_t from = has_first_tokens ? begin : max_of(begin, first);
  // Keys that begin after their end, as those of rows beyond all keys do, have no block: none may be packed.
  const std::int64_t to = from < end ? end : begin;
  const std::int64_t gap = round_up(head_->first_tokens, per_step);
  Keys keys{from, to, (from >= to && !range_->partial) || !head_->own.has(place), to, to};
  if (has_first_tokens && gap < first) keys.gap_from = gap, keys.gap_to = first;
  return keys;
}

Block Walk::block_at(std::int64_t at, const Keys& keys) const {
  std::int64_t first = max_of(at, keys.from), last = min_of(at + kBlockKeys, keys.to);
  if (first >= keys.gap_from) first = max_of(first, keys.gap_to);
  if (last <= keys.gap_to) last = min_of(last, keys.gap_from);
  return {first, last, nullptr, 0, 0, true};
}

/// The block's rows of K or V, in place; those of several pages are copied together first, which costs a few
/// per cent of packing them.
Walk::RowsInPlace Walk::rows_of(const KeyRows& rows, Element element, std::int64_t dim,
                                const Block& block) const {
  if (rows.piece_end(block.first) >= block.last) return {rows.row(element, block.first), rows.stride};
  rows.copy(element, dim, block.first, block.last, gathered_);
  return {gathered_, dim};
}

void Walk::pack_keys(const Block& block) const {
  if (head_->scores) return;
  range_->enter(Phase::pack);
  if (head_->k.is_tiled) return pack_key_tiles(block);
  const KeyRows& keys = head_->k;
  const Element element = kernels_.types.key;
  const std::int64_t panel = kernels_.panel_bytes(head_->head_dim);
  if (kernels_.int8) {
    const std::int64_t count = block.last - block.first;
    head_->k_factors(block.first, block.last, key_range_);
    std::fill(key_range_ + count, key_range_ + round_up(count, kernels_.mr), 0.0f);
  }
  const auto pack = [&](const RowsInPlace& rows, std::int64_t first, std::int64_t last) {
    const std::int64_t at = first - block.first;
    std::byte* const to = keys_ + at / kernels_.mr * panel;
    if (kernels_.int8)
      return kernels_.int8->key({rows.first, rows.stride, last - first, head_->head_dim, to});
    kernels_.pack->key(
        {rows.first, rows.stride, last - first, head_->head_dim, to, key_range_ ? key_range_ + at : nullptr});
  };
  if (keys.pages && (keys.page_keys % kernels_.mr != 0 || block.first % kernels_.mr != 0))
    return pack(rows_of(keys, element, head_->head_dim, block), block.first, block.last);
  // Pages of whole panels are packed in place.
  for (std::int64_t first = block.first; first < block.last;) {
    const std::int64_t last = min_of(keys.piece_end(first), block.last);
    pack({keys.row(element, first), keys.stride}, first, last);
    first = last;
  }
}

/// Panels are slices of tiles; a page's tiles lie one after the other.
void Walk::pack_key_tiles(const Block& block) const {
  const std::int64_t bytes = kernels_.steps(head_->head_dim) * kernels_.step_bytes();
  for (std::int64_t key = block.first; key < block.last;) {
    const std::int64_t end = min_of(head_->k.piece_end(key), block.last);
    kernels_.key_tiles->panels({head_->k.row(kernels_.types.key, key), end - key, head_->head_dim,
                                keys_ + (key - block.first) * bytes});
    key = end;
  }
}

void Walk::pack_values(Block& block) const {
  const std::int64_t keys = block.last - block.first, row = kernels_.mr * kernels_.step_bytes();
  if (head_->value_panels) {
    const std::int64_t at = block.first / kBlockKeys * kBlockKeys;
    block.values =
        reinterpret_cast<const std::byte*>(head_->value_panels + at * o_rows_) + (block.first - at) * row;
    block.value_stride = min_of(kBlockKeys, head_->kv_len - at) * row;
    block.value_step = row;
    return;
  }
  range_->enter(Phase::pack);
  const RowsInPlace rows = rows_of(head_->v, kernels_.types.value, head_->v_head_dim, block);
  // (To the product a step of 0 bytes means packed values.)
  if (rows.stride != 0 && takes_values_in_place() &&
      kernels_.pack->value({rows.first, rows.stride, keys, head_->v_head_dim, nullptr})) {
    block.values = static_cast<const std::byte*>(rows.first);
    block.value_stride = row;
    block.value_step = rows.stride * kernels_.step_bytes();
    return;
  }
  block.values = values_;
  block.value_stride = kernels_.steps(keys) * row;
  block.value_step = row;
  block.ordinary_values = kernels_.pack->value({rows.first, rows.stride, keys, head_->v_head_dim, values_});
  if (block.ordinary_values) return;
  // 0 * NaN would reach queries that do not see the key: add_poison() adds these elements one by one.
  void* values = values_;
  for (std::int64_t i = 0; i < kernels_.steps(keys) * kernels_.per_step() * o_rows_; ++i) {
    if (!is_ordinary(load_element(kernels_.product, values, i)))
      std::memset(element_at(kernels_.product, values, i), 0,
                  static_cast<std::size_t>(bytes_of(kernels_.product)));
  }
}

/// Whether values are read in place: a single tile would read panels only once, so it is better not to make
/// them. In place there is no padding past the last dim for the product to read.
bool Walk::takes_values_in_place() const {
  const std::int64_t dim = head_->v_head_dim;
  return kernels_.product == Element::f16 && tile_count_ == 1 &&
         (dim % kernels_.mr == 0 || last_rows(tiles_[0], dim) != 0);
}

/// Whether the packed keys can be the operand of the output product as well. Where some row does not see some
/// key, values must be finite (pack_values()), which has not been checked; such blocks are few.
bool Walk::finds_values_in_keys(const Block& block) const {
  return head_->value_in_key >= 0 && !head_->scores && kernels_.transposed_gemm[0] &&
         head_->value_in_key + o_rows_ <= head_->head_dim &&
         head_->begin_of(range_->row_end - 1) <= block.first &&
         head_->end_of(range_->row_begin) >= block.last && !head_->masks(block.first, block.last);
}

/// Speed over packing the values separately, 128 rows of 576 and 512 elements, f32, one thread of an Emerald
/// Rapids: 1.09 with AVX-512, 1.02 with AVX2. Also tried there: the next block's keys fetched into L2 between
/// the products, after every 2 panels of keys and 4 of values, or of keys alone: 0.97.
void Walk::set_values(Block& block) const {
  if (!finds_values_in_keys(block)) return pack_values(block);
  block.values = keys_ + head_->value_in_key * kernels_.mr * kernels_.step_bytes();
  block.value_stride = head_->head_dim * kernels_.mr * kernels_.step_bytes();
  block.values_in_keys = true;
}

bool Walk::is_ordinary(float value) const {
  return std::fabs(value) <= kernels_.value_limit();
}

void Walk::begin_sums(std::int64_t stage) const {
  // Without a softmax every maximum is 0: merging such states adds them up. In product f16 m is an exponent.
  const float m = head_->has_softmax || kernels_.product == Element::f16 ? kMinusInfinity : 0.0f;
  for (std::int64_t t = 0; t < tile_count_; ++t) {
    const Tile& tile = tiles_[t];
    for (std::int64_t n = stage * tile.nr; n < (stage + 1) * tile.nr; ++n) {
      tile.split.m[n] = m;
      tile.split.l[n] = 0.0f;
    }
  }
}

void Walk::begin_values() const {
  for (std::int64_t t = 0; t < tile_count_; ++t) tiles_[t].split_empty = true;
}

void Walk::exponentiate(const Tile& tile, Slot& slot, std::int64_t stage) const {
  if (slot.runs.size == 0) return;
  range_->enter(Phase::softmax);
  (head_->has_softmax ? kernels_.softmax->probabilities : kernels_.softmax->weights)(
      {slot.scores, slot.runs.count, tile.nr, slot.block_max, tile.split.m + stage * tile.nr,
       tile.split.l + stage * tile.nr, slot.alpha, score_scale()});
}

static_assert(kHalfPair == kBlockKeys, "the chains whose sums are added are those of a block");

void Walk::add_values(Tile& tile, const Block& block, Slot& slot) const {
  const std::int64_t width = tile.nr / kernels_.lanes - 1;
  const GemmKernel& gemm = *kernels_.gemm[width];
  const GemmFunction init = block.values_in_keys ? kernels_.transposed_gemm[width]->init : gemm.init,
                     accumulate =
                         block.values_in_keys ? kernels_.transposed_gemm[width]->accumulate : gemm.accumulate;
  const auto* const probabilities = reinterpret_cast<const std::byte*>(slot.scores);
  const std::int64_t step = kernels_.step_bytes();
  if (slot.runs.size > 0) range_->enter(Phase::values);
  for (std::int64_t r = 0; r < slot.runs.size; ++r) {
    const Run& run = slot.runs.run[r];
    // Runs begin with a panel of keys.
    const std::int64_t first = block.values_in_keys
                                   ? (run.first - block.first) * head_->head_dim * step
                                   : kernels_.steps(run.first - block.first) * block.value_step;
    const GemmArgs args{block.values + first,
                        block.value_stride,
                        probabilities + kernels_.steps(run.at) * tile.nr * step,
                        tile.split.o,
                        kernels_.steps(run.count),
                        o_rows_ / kernels_.mr,
                        tile.split_empty ? nullptr : slot.alpha,
                        nullptr,
                        nullptr,
                        last_rows(tile, head_->v_head_dim),
                        kHalfChain - run.first % kHalfChain,
                        block.value_step};
    run_product(tile.split_empty ? init : accumulate, args, tile.nr, block.value_stride);
    tile.split_empty = false;
    for (std::int64_t n = 0; n < tile.nr; ++n) slot.alpha[n] = 1.0f;
  }
  if (block.ordinary_values) return;
  for (std::int64_t r = 0; r < slot.runs.size; ++r) add_poison(tile, slot, slot.runs.run[r]);
}

/// P of row j of P^T and query n; with pairs, the two keys of a step are adjacent.
float Walk::probability(const Tile& tile, const Slot& slot, std::int64_t j, std::int64_t n) const {
  const std::int64_t per = kernels_.per_step();
  return load_element(kernels_.product, slot.scores, (j / per * tile.nr + n) * per + j % per);
}

/// Factor of the scores that exponentiate() applies. With terms, and where scores are precomputed, it has
/// been applied already.
float Walk::score_scale() const {
  return head_->terms.any() || head_->scores ? 1.0f : kernels_.score_scale(head_->q_scale);
}

/// The queries of the tile that see each key of a run: bit n is query n.
void Walk::find_queries_seeing(const Tile& tile, const Run& run, std::uint64_t* of_key) const {
  static_assert(kMaxLanes <= 64);
  std::int32_t begin[kMaxLanes], end[kMaxLanes];
  lane_intervals(tile, run.first, run.count, begin, end);
  std::memset(of_key, 0, static_cast<std::size_t>(run.count) * sizeof *of_key);
  const auto first_end = static_cast<std::int32_t>(first_tokens_end(run, 0, run.count));
  KeyRun runs[kRowRuns];
  std::uint8_t room[kBlockKeys];
  for (std::int64_t n = 0; n < tile.used; ++n) {
    const std::uint8_t* mask =
        run.unmasked ? nullptr : mask_of_row(*head_, tile.row + n, run.first, run.count, room);
    const auto add = [&](std::int32_t from, std::int32_t to) {
      const std::int64_t count = runs_of_row(mask, head_->terms.mask_stride, from, to, runs);
      for (const KeyRun* seen = runs; seen != runs + count; ++seen) {
        for (std::int32_t j = seen->begin; j < seen->end; ++j) of_key[j] |= std::uint64_t{1} << n;
      }
    };
    add(0, std::min(first_end, end[n]));
    add(std::max(first_end, begin[n]), end[n]);
  }
}

void Walk::add_poison(const Tile& tile, const Slot& slot, const Run& run) const {
  std::uint64_t of_key[kBlockKeys];
  find_queries_seeing(tile, run, of_key);
  for (std::int64_t j = 0; j < run.count; ++j) {
    const void* value = head_->v.row(kernels_.types.value, run.first + j);
    for (std::int64_t d = 0; d < head_->v_head_dim; ++d) {
      const float x = load_element(kernels_.types.value, value, d);
      if (is_ordinary(x)) continue;
      for (std::int64_t n = 0; n < tile.used; ++n) {
        if ((of_key[j] >> n & 1) == 0) continue;
        float& o = tile.split.o[d * tile.nr + n];
        o = std::fma(probability(tile, slot, run.at + j, n), x, o);
      }
    }
  }
}

void Walk::end_split(std::int64_t split, std::int64_t stage) const {
  range_->enter(Phase::merge);
  for (std::int64_t t = 0; t < tile_count_; ++t) end_tile(tiles_[t], split, stage);
}

void Walk::end_tile(Tile& tile, std::int64_t split, std::int64_t stage) const {
  if (range_->keeps_each_split()) return store_partial(tile, split, stage);
  if (tile.split_empty) return;
  if (tile.total_waits) load_running(tile);
  const TileState done{tile.split.m + stage * tile.nr, tile.split.l + stage * tile.nr, tile.split.o};
  if (!tile.total_empty) return kernels_.state->merge_tile({tile.total, done, tile.nr, head_->v_head_dim});
  const auto bytes = static_cast<std::size_t>(tile.nr) * sizeof(float);
  std::memcpy(tile.total.m, done.m, bytes);
  std::memcpy(tile.total.l, done.l, bytes);
  tile.split.o = tile.total.o;
  tile.total.o = done.o;
  tile.total_empty = false;
}

void Walk::finish() const {
  if (range_->keeps_each_split()) return;
  range_->enter(Phase::store);
  for (std::int64_t t = 0; t < tile_count_; ++t) {
    Tile& tile = tiles_[t];
    if (range_->partial) {
      store_merged(tile);
      continue;
    }
    if (tile.total_waits) {
      if (head_->running.stores()) continue;  // No split was visible: states stay as they are.
      load_running(tile);
    }
    head_->running.stores() ? store_running(tile) : store_rows(tile);
  }
}

}  // namespace kumiko::kernels
