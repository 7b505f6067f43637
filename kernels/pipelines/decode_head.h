// SPDX-License-Identifier: Apache-2.0
// One head of a task of decode: its operands over its scratch, and the steps that a run is made of. See
// kernels/decode/decode.h for why its bits are those of `online`.
#pragma once

#include <algorithm>
#include <cstring>
#include <optional>

#include "kernels/decode/rows.h"
#include "kernels/pipelines/decode_scratch.h"
#include "kernels/pipelines/read_order.h"

namespace kumiko::kernels {
namespace {  // for decode.cpp

/// Writes one query row in steps of the product. When it is inlined into the loop over rows, g++ 12 does not
/// vectorise it: 1300 cycles for four rows of 128 bf16.
[[gnu::noinline]] void set_query(const KernelSet& kernels, const HeadProblem& head, std::int64_t row,
                                 float* to) {
  const void* q = head.q_row(kernels.types.query, row);
  const float scale = kernels.query_scale(head.q_scale);
  if (kernels.product == Element::f32) {
    for (std::int64_t d = 0; d < head.head_dim; ++d) to[d] = load_element(kernels.types.query, q, d) * scale;
    return;
  }
  std::memset(to, 0, static_cast<std::size_t>(kernels.steps(head.head_dim)) * sizeof(float));
  for (std::int64_t d = 0; d < head.head_dim; ++d) {
    Bf16 x;
    from_float(load_element(kernels.types.query, q, d) * scale, &x);
    std::memcpy(reinterpret_cast<std::byte*>(to) + d * bytes_of(kernels.product), &x, sizeof x);
  }
}

class DecodeHead {
 public:
  DecodeHead(const KernelSet& kernels, const HeadProblem& head, const TaskRange& task, Carver& carver)
      : kernels_(kernels),
        head_(head),
        task_(task),
        rows_(task.row_end - task.row_begin),
        decode_scores_(kernels.decode_scores_of(rows_, head.k.stride == head.head_dim)),
        decode_values_(kernels.decode_values_of(rows_, head.v.stride == head.v_head_dim)),
        s_(carver, kernels, rows_, head.head_dim, head.v_head_dim) {
    s_.kv.begin(head);
  }

  const DecodeRows& rows() const { return s_.kv; }
  const TaskRange& task() const { return task_; }

  /// `order` must have begun with this head's rows().
  void begin(const ReadOrder& order) {
    task_.enter(Phase::queries);
    set_queries();
    seen_ = visible_keys();
    first_end_ = min_of(head_.first_tokens, head_.end_of(task_.row_end - 1));
    set_operands(order.fetch());
    DecodeScratch::clear(s_.total_m, s_.total_l, s_.total_o, rows_, s_.o_stride);
    for (std::int64_t r = 0; r < rows_ && head_.running.loads() && !task_.partial; ++r)
      load_running(head_, task_.row_begin + r, total(r));
  }
  void end() const {
    if (task_.partial) return;
    task_.enter(Phase::store);
    for (std::int64_t r = 0; r < rows_; ++r) end_merged_row(kernels_, head_, task_.row_begin + r, total(r));
  }

  /// The split's keys that some row may see; none if the split has no state.
  std::optional<KeyRange> keys_of_split(std::int64_t split) const {
    const std::int64_t place = SplitNumbers(head_, task_.row_begin).place(split), begin = place * kSplitKeys;
    if (!head_.own.has(place)) return {};
    const bool has_first_tokens = begin < first_end_;
    const KeyRange keys{has_first_tokens ? begin : max_of(begin, seen_.first / kBlockKeys * kBlockKeys),
                        min_of(begin + kSplitKeys, max_of(seen_.last, has_first_tokens ? first_end_ : 0))};
    if (keys.empty() && !task_.partial) return {};
    return keys;
  }
  /// The keys of a block from the first to the last that some row sees. `last`: end of the split's keys.
  KeyRange seen_of_block(std::int64_t block, std::int64_t last) const {
    const KeyRange window{max_of(block, seen_.first), min_of(min_of(block + kBlockKeys, last), seen_.last)};
    if (block >= first_end_) return window;
    return {block, window.empty() ? min_of(block + kBlockKeys, first_end_)
                                  : max_of(window.last, min_of(block + kBlockKeys, first_end_))};
  }
  /// The keys of the block after `block`. Past the end of a dense tensor a prefetch does no harm; a block
  /// table has no entries there.
  KeyRange after(const KeyRange& block) const {
    const std::int64_t last = block.last + kBlockKeys;
    return {block.last, head_.k.pages ? min_of(last, seen_.last) : last};
  }

  void begin_split() const { DecodeScratch::clear(s_.m, s_.l, s_.o, rows_, s_.o_stride); }
  void end_split(std::int64_t split) const {
    for (std::int64_t r = 0; r < rows_; ++r) end_split(split, r);
  }

  // The steps of a block; parts are counted from its first key. Nothing is done if no row sees a key.

  void begin_block(const KeyRange& block, std::int64_t part_keys) {
    block_ = block;
    block_rows_ = s_.kv.block(block, part_keys);
    const bool is_masked = head_.masks(block.first, block.last);
    for (std::int64_t r = 0; r < rows_; ++r) {
      s_.mask[r] = is_masked ? mask_of_row(head_, task_.row_begin + r, block.first, block.last - block.first,
                                           s_.masks + r * kBlockKeys)
                             : nullptr;
      set_visible(r);
    }
    sees_any_ = !is_masked ||
                !std::all_of(s_.runs, s_.runs + rows_, [](const KeyRuns& runs) { return runs.count == 0; });
  }
  void score(const KeyRange& part, const RowList& ahead) {
    if (!sees_any_) return;
    scores_.k = part_of(block_rows_.k, part.first);
    scores_.kv = part.last - part.first;
    scores_.scores = s_.scores + part.first;
    scores_.rows_ahead = ahead;
    if (kernels_.int8) return score_int8(part);
    (head_.k.is_tiled ? kernels_.key_tiles->scores : decode_scores_.scores)(scores_);
  }
  void apply_softmax(const RowList& ahead) {
    if (!sees_any_) return;
    for (std::int64_t r = 0; r < rows_ && head_.terms.any(); ++r) add_terms(r);
    for (std::int64_t r = 0; r < rows_ && block_.first < head_.first_tokens; ++r) hide_gap(r);
    softmax_.kv = block_.last - block_.first;
    softmax_.rows_ahead = ahead;
    kernels_.decode->softmax(softmax_);
  }
  void add_values(const KeyRange& part, const RowList& ahead) {
    if (!sees_any_) return;
    values_.v = part_of(block_rows_.v, part.first);
    values_.kv = part.last - part.first;
    values_.p = s_.scores + part.first / kernels_.per_step();  // P of pairs is bf16
    values_.runs = part.first == 0 && part.last == block_.last - block_.first ? s_.runs : runs_of(part);
    values_.first_key = block_.first + part.first;
    values_.rows_ahead = ahead;
    decode_values_.add_values(values_);
  }

 private:
  void set_queries() const {
    if (kernels_.int8) return set_int8_queries();
    if (kernels_.product == Element::f16) return set_panels_of_queries();
    for (std::int64_t r = 0; r < rows_; ++r)
      set_query(kernels_, head_, task_.row_begin + r, s_.q + r * s_.q_stride);
  }
  /// Packs queries as a tile's keys are packed: here keys are in the lanes.
  void set_int8_queries() const {
    const Int8ScoresKernel& int8 = *kernels_.int8;
    auto* to = reinterpret_cast<std::byte*>(s_.q);
    for (std::int64_t r = 0; r < rows_; ++r) {
      // Panels are packed from rows at a constant stride, so the rows are copied together first.
      std::memcpy(s_.q_rows + r * head_.head_dim, head_.q_row(kernels_.types.query, task_.row_begin + r),
                  static_cast<std::size_t>(head_.head_dim));
      s_.q_range[r] = head_.q_factor(task_.row_begin + r);
    }
    std::fill(s_.q_range + rows_, s_.q_range + round_up(rows_, int8.mr), 0.0f);
    int8.key({s_.q_rows, head_.head_dim, rows_, head_.head_dim, to});
  }
  /// Packs the queries into one panel, as for tiles.
  void set_panels_of_queries() const {
    const void* rows[kMaxDecodeRows];
    for (std::int64_t r = 0; r < rows_; ++r) rows[r] = head_.q_row(kernels_.types.query, task_.row_begin + r);
    kernels_.pack->query(
        {rows, rows_, s_.q_stride, head_.head_dim, kernels_.query_scale(head_.q_scale), s_.q, s_.q_range});
  }

  /// The keys that some row sees, with the first rounded down to a whole step, or in pages to a whole group.
  KeyRange visible_keys() const {
    std::int64_t first = head_.kv_len, last = 0;
    for (std::int64_t row = task_.row_begin; row < task_.row_end; ++row) {
      if (head_.begin_of(row) >= head_.end_of(row)) continue;
      first = min_of(first, head_.begin_of(row));
      last = max_of(last, head_.end_of(row));
    }
    const std::int64_t unit = head_.k.pages && !copies_rows(kernels_) ? kLeastGroup : kernels_.per_step();
    return {first / unit * unit, last};
  }

  /// Sets what is the same for all blocks.
  void set_operands(const FetchDistances& fetch) {
    scores_.q = s_.q;
    scores_.q_stride = s_.q_stride;
    scores_.range = s_.q_range;
    scores_.rows = rows_;
    scores_.dim = head_.head_dim;
    scores_.score_stride = kBlockKeys;
    scores_.fetch = fetch;

    softmax_.scores = s_.scores;
    softmax_.score_stride = kBlockKeys;
    softmax_.rows = rows_;
    softmax_.begin = s_.begin;
    softmax_.end = s_.end;
    softmax_.m = s_.m;
    softmax_.l = s_.l;
    softmax_.o = s_.o;
    softmax_.o_stride = s_.o_stride;
    softmax_.v_dim = head_.v_head_dim;
    // With terms, scores have been scaled already.
    softmax_.scale = head_.terms.any() ? 1.0f : kernels_.score_scale(head_.q_scale);
    softmax_.fetch = fetch;

    values_.p_stride = kBlockKeys;
    values_.rows = rows_;
    values_.v_dim = head_.v_head_dim;
    values_.l = s_.l;
    values_.o = s_.o;
    values_.o_stride = s_.o_stride;
    values_.fetch = fetch;
  }

  /// Computes the scores of a part's keys, a tile's lanes at a time.
  void score_int8(const KeyRange& part) const {
    const Int8ScoresKernel& int8 = *kernels_.int8;
    head_.k_factors(block_.first + part.first, block_.first + part.last, s_.k_range);
    std::fill(s_.k_range + scores_.kv, s_.k_range + round_up(scores_.kv, int8.lanes), 0.0f);
    RowFetcher ahead(scores_.rows_ahead, scores_.fetch.keys, 1, 1);
    const std::int64_t lines = lines_of_row(head_.head_dim), panels = (rows_ + int8.mr - 1) / int8.mr;
    for (std::int64_t first = 0, nr = 0; first < scores_.kv; first += nr) {
      const std::int64_t left = scores_.kv - first, used = min_of(left, int8.most_lanes());
      nr = round_up(used, int8.lanes);
      const void* rows[kMaxInt8Lanes];
      for (std::int64_t n = 0; n < used; ++n) {
        rows[n] = row_of<std::int8_t>(scores_.k, first + n);
        for (std::int64_t line = 0; line < lines; ++line) ahead.fetch_line();
      }
      int8.query({rows, used, nr, head_.head_dim, s_.k_panel});
      const GemmArgs args{s_.q,
                          int8.panel_bytes(head_.head_dim),
                          s_.k_panel,
                          s_.int8_scores,
                          int8.steps(head_.head_dim),
                          panels,
                          s_.k_range + first,
                          nullptr,
                          s_.q_range};
      int8.tile[nr / int8.lanes - 1](&args);
      for (std::int64_t r = 0; r < rows_; ++r)
        std::memcpy(scores_.scores + r * kBlockKeys + first, s_.int8_scores + r * nr,
                    static_cast<std::size_t>(used) * sizeof(float));
    }
  }

  /// What row r sees of the first tokens and of its window, counted from the block's first key.
  struct FirstAndWindow {
    KeyRange first, window;
  };
  FirstAndWindow first_and_window(std::int64_t r) const {
    const std::int64_t row = task_.row_begin + r, begin = head_.begin_of(row) - block_.first,
                       end = max_of(min_of(head_.end_of(row), block_.last) - block_.first, 0),
                       first_end = min_of(end, head_.first_tokens - block_.first);
    if (begin <= first_end) return {{0, end}, {end, end}};  // Two runs might share a pair of keys.
    return {{0, first_end}, {begin, end}};
  }
  /// set_visible() for a block with first tokens: the interval has hidden keys between its runs.
  void set_visible_with_first_tokens(std::int64_t r) const {
    const auto [first, window] = first_and_window(r);
    s_.begin[r] = 0;
    s_.end[r] = static_cast<std::int32_t>(window.empty() ? first.last : window.last);
    KeyRun* run = s_.run + r * kRowRuns;
    std::int64_t count = 0;
    for (const KeyRange& part : {first, window}) {
      count += runs_of_row(s_.mask[r], head_.terms.mask_stride, static_cast<std::int32_t>(part.first),
                           static_cast<std::int32_t>(part.last), run + count);
    }
    s_.runs[r] = {run, count};
  }
  /// Hides the scores between the first tokens and the window from the softmax.
  void hide_gap(std::int64_t r) const {
    const auto [first, window] = first_and_window(r);
    float* const scores = s_.scores + r * kBlockKeys;
    for (std::int64_t j = first.last; j < min_of(window.first, s_.end[r]); ++j) scores[j] = -__builtin_inff();
  }

  /// Sets the interval and the runs of keys that row r sees in the block, counted from its first key.
  void set_visible(std::int64_t r) const {
    if (block_.first < head_.first_tokens) return set_visible_with_first_tokens(r);
    const std::int64_t row = task_.row_begin + r, begin = max_of(head_.begin_of(row), block_.first),
                       end = min_of(head_.end_of(row), block_.last);
    s_.begin[r] = begin < end ? static_cast<std::int32_t>(begin - block_.first) : 0;
    s_.end[r] = begin < end ? static_cast<std::int32_t>(end - block_.first) : 0;
    KeyRun* run = s_.run + r * kRowRuns;
    s_.runs[r] = {run, runs_of_row(s_.mask[r], head_.terms.mask_stride, s_.begin[r], s_.end[r], run)};
  }

  /// What the rows see of a part, counted from its first key.
  const KeyRuns* runs_of(const KeyRange& part) const {
    for (std::int64_t r = 0; r < rows_; ++r) {
      KeyRun* const run = s_.part_run + r * (turn_keys(kernels_) / 2);
      std::int64_t count = 0;
      for (std::int64_t i = 0; i < s_.runs[r].count; ++i) {
        const KeyRun& whole = s_.runs[r].run[i];
        const std::int64_t begin = max_of(whole.begin, part.first), end = min_of(whole.end, part.last);
        if (begin < end)
          run[count++] = {static_cast<std::int32_t>(begin - part.first),
                          static_cast<std::int32_t>(end - part.first)};
      }
      s_.part_runs[r] = {run, count};
    }
    return s_.part_runs;
  }

  void add_terms(std::int64_t r) const {
    if (s_.begin[r] >= s_.end[r]) return;
    const std::int64_t row = task_.row_begin + r;
    ScoreRowArgs args{};
    args.s = s_.scores + r * kBlockKeys;
    args.kv = block_.last - block_.first;
    ScoreTerms terms = head_.terms;
    terms.has_mask = s_.mask[r] != nullptr;
    args.terms = &terms;
    args.mask = s_.mask[r];
    if (head_.terms.has_bias) args.bias = head_.bias_row(row, block_.first);
    if (head_.terms.has_alibi) {
      args.slope = head_.slope_of(row);
      args.position = head_.position_of(row, block_.first);
    }
    args.scale = kernels_.score_scale(head_.q_scale);
    kernels_.score->row(args);
  }

  void end_split(std::int64_t split, std::int64_t r) const {
    const float* o = s_.o + r * s_.o_stride;
    const std::int64_t dim = head_.v_head_dim;
    if (!task_.partial) {
      return kernels_.state->merge_row(
          {s_.total_m + r, s_.total_l + r, s_.total_o + r * s_.o_stride, s_.m[r], s_.l[r], o, dim});
    }
    float* state = task_.state_of(split, task_.row_begin + r, partial_size(dim));
    std::memcpy(state, o, static_cast<std::size_t>(dim) * sizeof(float));
    state[dim] = s_.m[r];
    state[dim + 1] = s_.l[r];
  }

  RowState total(std::int64_t r) const {
    return {s_.total_m + r, s_.total_l + r, s_.total_o + r * s_.o_stride};
  }

  const KernelSet& kernels_;
  const HeadProblem& head_;
  const TaskRange& task_;
  std::int64_t rows_;
  const DecodeKernel &decode_scores_, &decode_values_;
  DecodeScratch s_;
  KeyRange seen_{};
  KeyRange block_{};
  DecodeBlock block_rows_{};
  bool sees_any_ = false;
  std::int64_t first_end_ = 0;  // of the first tokens
  DecodeScoresArgs scores_{};
  DecodeSoftmaxArgs softmax_{};
  DecodeValuesArgs values_{};
};

}  // namespace
}  // namespace kumiko::kernels
