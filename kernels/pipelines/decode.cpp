// SPDX-License-Identifier: Apache-2.0
// decode: few rows, keys and values read once, in place. See decode.h for why its bits are those of `online`.
#include <algorithm>
#include <cstring>

#include "kernels/decode/rows.h"
#include "kernels/pipelines/decode_rows.h"
#include "kernels/pipelines/masks.h"
#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {
namespace {

struct Scratch {
  float *q, *q_range, *scores, *m, *l, *o, *total_m, *total_l, *total_o;
  std::int32_t *begin, *end;
  KeyRuns* runs;
  KeyRun* run;                // [rows][kRowRuns]
  std::uint8_t* masks;        // [rows][kBlockKeys], made from lists; only where there are any
  const std::uint8_t** mask;  // of each row from the block's first key on, or nullptr
  std::int64_t o_stride, q_stride;
  DecodeRows kv;  // begin() before use
  // Of int8 queries and keys only.
  float *k_range, *int8_scores;  // factors of a block's keys; scores of one tile
  std::byte *q_rows, *k_panel;

  Scratch(Carver& carver, const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
          std::int64_t v_head_dim)
      : kv(carver, kernels, head_dim, v_head_dim) {
    o_stride = round_up(v_head_dim, kernels.lanes);
    const bool is_half = kernels.product == Element::f16;
    q_stride = is_half ? round_up(rows, kernels.lanes) : kernels.steps(head_dim);
    if (kernels.int8) {
      take_int8(carver, *kernels.int8, rows, head_dim);
    } else {
      q_range = carver.take<float>(is_half ? q_stride : 0);
      q = reinterpret_cast<float*>(
          carver.take<std::byte>((is_half ? head_dim : rows) * q_stride * kernels.step_bytes()));
    }
    scores = carver.take<float>(rows * kBlockKeys);
    m = carver.take<float>(rows);
    l = carver.take<float>(rows);
    o = carver.take<float>(rows * o_stride);
    total_m = carver.take<float>(rows);
    total_l = carver.take<float>(rows);
    total_o = carver.take<float>(rows * o_stride);
    begin = carver.take<std::int32_t>(rows);
    end = carver.take<std::int32_t>(rows);
    runs = carver.take<KeyRuns>(rows);
    run = carver.take<KeyRun>(rows * kRowRuns);
    masks = carver.take<std::uint8_t>(kernels.has_key_lists ? rows * kBlockKeys : 0);
    mask = carver.take<const std::uint8_t*>(rows);
  }

  void take_int8(Carver& carver, const Int8ScoresKernel& int8, std::int64_t rows, std::int64_t head_dim) {
    const std::int64_t panel_rows = round_up(rows, int8.mr);
    q_range = carver.take<float>(panel_rows);
    q = reinterpret_cast<float*>(carver.take<std::byte>(panel_rows / int8.mr * int8.panel_bytes(head_dim)));
    q_rows = carver.take<std::byte>(rows * head_dim);
    k_range = carver.take<float>(kBlockKeys);
    k_panel = carver.take<std::byte>(int8.query_bytes(head_dim, int8.most_lanes()));
    int8_scores = carver.take<float>(panel_rows * int8.most_lanes());
  }

  static void clear(float* m, float* l, float* o, std::int64_t rows, std::int64_t o_stride) {
    for (std::int64_t r = 0; r < rows; ++r) m[r] = -__builtin_inff();
    std::memset(l, 0, static_cast<std::size_t>(rows) * sizeof(float));
    std::memset(o, 0, static_cast<std::size_t>(rows * o_stride) * sizeof(float));
  }
};

/// One query row in steps. Inlined into the loop over rows, g++ 12 does not vectorise it: 1300 cycles for
/// four rows of 128 bf16.
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

/// One task: its operands over its scratch, and the steps that run() is made of.
class Decode {
 public:
  Decode(const KernelSet& kernels, const HeadProblem& head, const TaskRange& task, std::byte* memory)
      : kernels_(kernels),
        head_(head),
        task_(task),
        rows_(task.row_end - task.row_begin),
        carver_(memory),
        s_(carver_, kernels, rows_, head.head_dim, head.v_head_dim) {}

  void run() {
    task_.enter(Phase::queries);
    set_queries();
    seen_ = visible_keys();
    first_end_ = min_of(head_.first_tokens, head_.end_of(task_.row_end - 1));
    set_operands();
    Scratch::clear(s_.total_m, s_.total_l, s_.total_o, rows_, s_.o_stride);
    for (std::int64_t r = 0; r < rows_ && head_.running.loads() && !task_.partial; ++r)
      load_running(head_, task_.row_begin + r, total(r));
    for (std::int64_t split = task_.split_begin; split < task_.split_end; ++split) run_split(split);
    if (task_.partial) return;
    task_.enter(Phase::store);
    for (std::int64_t r = 0; r < rows_; ++r) end_merged_row(kernels_, head_, task_.row_begin + r, total(r));
  }

 private:
  void set_queries() const {
    if (kernels_.int8) return set_int8_queries();
    if (kernels_.product == Element::f16) return set_panels_of_queries();
    for (std::int64_t r = 0; r < rows_; ++r)
      set_query(kernels_, head_, task_.row_begin + r, s_.q + r * s_.q_stride);
  }
  /// Queries in the place of a tile's keys: keys are in the lanes here.
  void set_int8_queries() const {
    const Int8ScoresKernel& int8 = *kernels_.int8;
    auto* to = reinterpret_cast<std::byte*>(s_.q);
    for (std::int64_t r = 0; r < rows_; ++r) {
      // Rows that lie anywhere are gathered first: a panel's lie in step.
      std::memcpy(s_.q_rows + r * head_.head_dim, head_.q_row(kernels_.types.query, task_.row_begin + r),
                  static_cast<std::size_t>(head_.head_dim));
      s_.q_range[r] = head_.q_factor(task_.row_begin + r);
    }
    std::fill(s_.q_range + rows_, s_.q_range + round_up(rows_, int8.mr), 0.0f);
    int8.key({s_.q_rows, head_.head_dim, rows_, head_.head_dim, to});
  }
  /// The queries as tiles have them, side by side.
  void set_panels_of_queries() const {
    const void* rows[kMaxDecodeRows];
    for (std::int64_t r = 0; r < rows_; ++r) rows[r] = head_.q_row(kernels_.types.query, task_.row_begin + r);
    kernels_.pack->query(
        {rows, rows_, s_.q_stride, head_.head_dim, kernels_.query_scale(head_.q_scale), s_.q, s_.q_range});
  }

  /// Those that some row sees, from the first of a step on, and in pages from that of a group.
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

  /// What is the same for all blocks.
  void set_operands() {
    s_.kv.begin(head_);
    scores_.q = s_.q;
    scores_.q_stride = s_.q_stride;
    scores_.range = s_.q_range;
    scores_.rows = rows_;
    scores_.dim = head_.head_dim;
    scores_.scores = s_.scores;
    scores_.score_stride = kBlockKeys;
    scores_.fetch = s_.kv.fetch();

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
    // Terms have the scale in them already.
    softmax_.scale = head_.terms.any() ? 1.0f : kernels_.score_scale(head_.q_scale);
    softmax_.fetch = s_.kv.fetch();

    values_.p = s_.scores;
    values_.p_stride = kBlockKeys;
    values_.rows = rows_;
    values_.v_dim = head_.v_head_dim;
    values_.runs = s_.runs;
    values_.l = s_.l;
    values_.o = s_.o;
    values_.o_stride = s_.o_stride;
    values_.fetch = s_.kv.fetch();
  }

  void run_split(std::int64_t split) {
    const std::int64_t place = SplitNumbers(head_, task_.row_begin).place(split), begin = place * kSplitKeys;
    if (!head_.own.has(place)) return;
    const bool has_first_tokens = begin < first_end_;
    const KeyRange keys{has_first_tokens ? begin : max_of(begin, seen_.first / kBlockKeys * kBlockKeys),
                        min_of(begin + kSplitKeys, max_of(seen_.last, has_first_tokens ? first_end_ : 0))};
    if (keys.empty() && !task_.partial) return;
    task_.enter(Phase::decode);
    Scratch::clear(s_.m, s_.l, s_.o, rows_, s_.o_stride);
    for (std::int64_t block = keys.first; block < keys.last; block += kBlockKeys) {
      const KeyRange seen = seen_of_block(block, keys.last);
      if (!seen.empty()) run_block(seen);
    }
    task_.enter(Phase::merge);
    for (std::int64_t r = 0; r < rows_; ++r) end_split(split, r);
  }

  /// Keys of a block from its first that some row sees to its last.
  KeyRange seen_of_block(std::int64_t block, std::int64_t last) const {
    const KeyRange window{max_of(block, seen_.first), min_of(min_of(block + kBlockKeys, last), seen_.last)};
    if (block >= first_end_) return window;
    return {block, window.empty() ? min_of(block + kBlockKeys, first_end_)
                                  : max_of(window.last, min_of(block + kBlockKeys, first_end_))};
  }

  void run_block(const KeyRange& block) {
    const DecodeBlock rows = s_.kv.block(block, seen_.last);
    scores_.k = rows.k;
    values_.v = rows.v;
    scores_.rows_ahead = rows.from_keys;
    softmax_.rows_ahead = values_.rows_ahead = rows.from_values;
    scores_.kv = softmax_.kv = values_.kv = block.last - block.first;
    values_.first_key = block.first;
    const bool is_masked = head_.masks(block.first, block.last);
    for (std::int64_t r = 0; r < rows_; ++r) {
      s_.mask[r] = is_masked ? mask_of_row(head_, task_.row_begin + r, block.first, scores_.kv,
                                           s_.masks + r * kBlockKeys)
                             : nullptr;
      set_visible(r, block);
    }
    if (is_masked &&
        std::all_of(s_.runs, s_.runs + rows_, [](const KeyRuns& runs) { return runs.count == 0; }))
      return;
    score(block);
    for (std::int64_t r = 0; r < rows_ && head_.terms.any(); ++r) add_terms(r, block);
    for (std::int64_t r = 0; r < rows_ && block.first < head_.first_tokens; ++r) hide_gap(r, block);
    kernels_.decode->softmax(softmax_);
    kernels_.decode->add_values(values_);
  }

  void score(const KeyRange& block) const {
    if (kernels_.int8) return score_int8(block);
    (head_.k.is_tiled ? kernels_.key_tiles->scores : kernels_.decode->scores)(scores_);
  }
  /// Scores of the block's keys, a tile's lanes at a time.
  void score_int8(const KeyRange& block) const {
    const Int8ScoresKernel& int8 = *kernels_.int8;
    head_.k_factors(block.first, block.last, s_.k_range);
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
        std::memcpy(s_.scores + r * kBlockKeys + first, s_.int8_scores + r * nr,
                    static_cast<std::size_t>(used) * sizeof(float));
    }
  }

  /// What row r sees of the first tokens and of its window, counted from the block's first key.
  struct FirstAndWindow {
    KeyRange first, window;
  };
  FirstAndWindow first_and_window(std::int64_t r, const KeyRange& block) const {
    const std::int64_t row = task_.row_begin + r, begin = head_.begin_of(row) - block.first,
                       end = max_of(min_of(head_.end_of(row), block.last) - block.first, 0),
                       first_end = min_of(end, head_.first_tokens - block.first);
    if (begin <= first_end) return {{0, end}, {end, end}};  // Two runs would share a step of a pair of keys.
    return {{0, first_end}, {begin, end}};
  }
  /// set_visible() of a block that first tokens lie in: the interval has hidden keys between its runs.
  void set_visible_with_first_tokens(std::int64_t r, const KeyRange& block) const {
    const auto [first, window] = first_and_window(r, block);
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
  void hide_gap(std::int64_t r, const KeyRange& block) const {
    const auto [first, window] = first_and_window(r, block);
    float* const scores = s_.scores + r * kBlockKeys;
    for (std::int64_t j = first.last; j < min_of(window.first, s_.end[r]); ++j) scores[j] = -__builtin_inff();
  }

  /// Interval and runs of what row r sees of the block, counted from its first key.
  void set_visible(std::int64_t r, const KeyRange& block) const {
    if (block.first < head_.first_tokens) return set_visible_with_first_tokens(r, block);
    const std::int64_t row = task_.row_begin + r, begin = max_of(head_.begin_of(row), block.first),
                       end = min_of(head_.end_of(row), block.last);
    s_.begin[r] = begin < end ? static_cast<std::int32_t>(begin - block.first) : 0;
    s_.end[r] = begin < end ? static_cast<std::int32_t>(end - block.first) : 0;
    KeyRun* run = s_.run + r * kRowRuns;
    s_.runs[r] = {run, runs_of_row(s_.mask[r], head_.terms.mask_stride, s_.begin[r], s_.end[r], run)};
  }

  void add_terms(std::int64_t r, const KeyRange& block) const {
    if (s_.begin[r] >= s_.end[r]) return;
    const std::int64_t row = task_.row_begin + r;
    ScoreRowArgs args{};
    args.s = s_.scores + r * kBlockKeys;
    args.kv = block.last - block.first;
    ScoreTerms terms = head_.terms;
    terms.has_mask = s_.mask[r] != nullptr;
    args.terms = &terms;
    args.mask = s_.mask[r];
    if (head_.terms.has_bias) args.bias = head_.bias_row(row, block.first);
    if (head_.terms.has_alibi) {
      args.slope = head_.slope_of(row);
      args.position = head_.position_of(row, block.first);
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
  Carver carver_;
  Scratch s_;
  KeyRange seen_{};
  std::int64_t first_end_ = 0;  // of the first tokens
  DecodeScoresArgs scores_{};
  DecodeSoftmaxArgs softmax_{};
  DecodeValuesArgs values_{};
};

}  // namespace

std::size_t decode_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                 std::int64_t v_head_dim) {
  Carver carver(nullptr);
  Scratch(carver, kernels, rows, head_dim, v_head_dim);
  return carver.used();
}

void decode_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& task,
                std::byte* memory) noexcept {
  Decode(kernels, head, task, memory).run();
}

}  // namespace kumiko::kernels
