// online: tiles of queries in vector lanes against packed blocks of keys and values, FlashAttention style.
//
// For each block of keys the task packs K and V once into its own scratch and takes every query tile over it:
//   S^T = K Q^T                      row maxima fall out of the registers; masked at the rim
//   P^T = 2^(S^T - m)                in place
//   O^T = O^T * alpha + V^T P^T
// Packing per task, not per domain: no barrier between packing and use, scratch independent of kv_len, and
// with r rows a packed element is used by r FMAs, so the copy is 1-2 % of the work from r = 192 on.
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {
namespace {

constexpr std::int64_t kMaxLanes = 64;  // of any query tile

struct Tile {
  std::int64_t row;   // first row
  std::int64_t used;  // rows in it
  std::int64_t nr;    // lanes computed
  float* q;           // [head_dim][nr]
  TileState split;    // state of the split at hand
  TileState total;    // state of the splits before it
  bool split_empty;
  bool total_empty;
};

struct Scratch {
  Tile* tiles;
  std::int64_t tile_count;
  std::int64_t o_rows;            // v_head_dim rounded up to MR
  float *keys, *values, *scores;  // panels in steps of 4 bytes (pack.h)

  Scratch(Carver& carver, const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
          std::int64_t v_head_dim) {
    o_rows = round_up(v_head_dim, kernels.mr);
    tile_count = (rows + kernels.max_nr - 1) / kernels.max_nr;
    tiles = carver.take<Tile>(tile_count);
    keys = carver.take<float>(kBlockKeys * kernels.steps(head_dim));
    values = carver.take<float>(kBlockKeys * o_rows);
    scores = carver.take<float>(kBlockKeys * kernels.max_nr);
    for (std::int64_t t = 0; t < tile_count; ++t) {
      Tile tile{};
      tile.used = min_of(rows - t * kernels.max_nr, kernels.max_nr);
      tile.nr = round_up(tile.used, kernels.lanes);
      tile.q = carver.take<float>(kernels.steps(head_dim) * tile.nr);
      for (TileState* state : {&tile.split, &tile.total}) {
        state->m = carver.take<float>(tile.nr);
        state->l = carver.take<float>(tile.nr);
        state->o = carver.take<float>(o_rows * tile.nr);
      }
      if (tiles) tiles[t] = tile;
    }
  }
};

/// One block of keys as packed for a task: keys [first, last), panels counted from `first`.
struct Block {
  std::int64_t first, last;
  bool finite_values;
};

struct Task {
  const KernelSet& kernels;
  const HeadProblem& head;
  const TaskRange& range;
  const Scratch& scratch;

  void pack_queries() const {
    for (std::int64_t t = 0; t < scratch.tile_count; ++t) {
      Tile& tile = scratch.tiles[t];
      tile.row = range.row_begin + t * kernels.max_nr;
      tile.total_empty = true;
      const void* rows[kMaxLanes];
      for (std::int64_t r = 0; r < tile.used; ++r) rows[r] = head.q_row(kernels.input, tile.row + r);
      kernels.pack->query(
          {rows, tile.used, tile.nr, head.head_dim, kernels.query_scale(head.q_scale), tile.q});
    }
  }

  Block pack_block(std::int64_t first, std::int64_t last) const {
    const std::int64_t keys = last - first;
    kernels.pack->key(
        {head.k_row(kernels.input, first), head.k_seq_stride, keys, head.head_dim, scratch.keys});
    const bool finite = kernels.pack->value(
        {head.v_row(kernels.input, first), head.v_seq_stride, keys, head.v_head_dim, scratch.values});
    if (!finite) {  // 0 * NaN would reach queries that do not see the key: add_poison() brings these elements
                    // in by hand
      const std::int64_t count = kernels.steps(keys) * kernels.per_step() * scratch.o_rows;
      void* values = scratch.values;
      for (std::int64_t i = 0; i < count; ++i) {
        if (!std::isfinite(load_element(kernels.product, values, i)))
          std::memset(element_at(kernels.product, values, i), 0,
                      static_cast<std::size_t>(bytes_of(kernels.product)));
      }
    }
    return {first, last, finite};
  }

  /// Scores of panels [from, to) of the block into S^T from row `at` on.
  void score(const Tile& tile, std::int64_t at, std::int64_t from, std::int64_t to, float* block_max) const {
    if (from >= to) return;
    const GemmRow& gemm = *kernels.gemm[tile.nr / kernels.lanes - 1];
    const std::int64_t steps = kernels.steps(head.head_dim), panel = steps * kernels.mr;
    const GemmArgs args{scratch.keys + from * panel,
                        panel * static_cast<std::int64_t>(sizeof(float)),
                        tile.q,
                        scratch.scores + at * tile.nr,
                        steps,
                        to - from,
                        nullptr,
                        block_max};
    (block_max ? gemm.init_max : gemm.init)(&args);
  }

  /// Visible keys of each lane, counted from `origin`. Lanes without a query see everything: they cost no
  /// mask.
  void lane_intervals(const Tile& tile, std::int64_t origin, std::int64_t count, std::int32_t* begin,
                      std::int32_t* end) const {
    for (std::int64_t n = 0; n < tile.nr; ++n) {
      const std::int64_t row = tile.row + n;
      const bool used = n < tile.used;
      begin[n] = used ? static_cast<std::int32_t>(max_of(min_of(head.begin_of(row) - origin, count), 0)) : 0;
      end[n] = used ? static_cast<std::int32_t>(max_of(min_of(head.end_of(row) - origin, count), 0))
                    : static_cast<std::int32_t>(count);
    }
  }

  /// Rows [at, at + count) of S^T are keys [first, first + count).
  struct Run {
    std::int64_t first, count, at;
  };
  struct Runs {
    Run run[kBlockKeys / 2 + 1];
    std::int64_t size = 0;
    std::int64_t count = 0;  // rows of S^T
    void add(std::int64_t first, std::int64_t keys) {
      run[size++] = {first, keys, count};
      count += keys;
    }
  };

  /// P of row j of P^T and query n, which lies among the others of its step.
  float probability(const Tile& tile, std::int64_t j, std::int64_t n) const {
    const std::int64_t per = kernels.per_step();
    return load_element(kernels.product, scratch.scores, (j / per * tile.nr + n) * per + j % per);
  }

  void add_poison(const Tile& tile, const Run& run) const {
    std::int32_t begin[kMaxLanes], end[kMaxLanes];
    lane_intervals(tile, run.first, run.count, begin, end);
    for (std::int64_t j = 0; j < run.count; ++j) {
      const void* value = head.v_row(kernels.input, run.first + j);
      for (std::int64_t d = 0; d < head.v_head_dim; ++d) {
        const float x = load_element(kernels.input, value, d);
        if (std::isfinite(x)) continue;
        for (std::int64_t n = 0; n < tile.used; ++n) {
          if (j < begin[n] || j >= end[n]) continue;
          if (head.terms.has_mask && *head.mask_row(tile.row + n, run.first + j) == 0) continue;
          float& o = tile.split.o[d * tile.nr + n];
          o = std::fma(probability(tile, run.at + j, n), x, o);
        }
      }
    }
  }

  /// Scores of panels [lo, hi), of which every row of the tile sees all keys of [full_lo, full_hi): only the
  /// others are masked. `count` keys, the last panel may have fewer.
  void plain_scores(const Tile& tile, const Block& block, std::int64_t lo, std::int64_t hi,
                    std::int64_t full_lo, std::int64_t full_hi, std::int64_t count, float* block_max) const {
    const std::int64_t mr = kernels.mr;
    score(tile, (full_lo - lo) * mr, full_lo, full_hi, block_max);
    if (lo == full_lo && full_hi == hi) return;
    score(tile, 0, lo, full_lo, nullptr);
    score(tile, (full_hi - lo) * mr, full_hi, hi, nullptr);
    alignas(64) std::int32_t begin[kMaxLanes], end[kMaxLanes];
    lane_intervals(tile, block.first + lo * mr, count, begin, end);
    const auto mask = [&](std::int64_t from, std::int64_t to) {
      if (from >= to) return;
      kernels.softmax->mask_scores({scratch.scores + from * tile.nr, to - from, tile.nr,
                                    static_cast<std::int32_t>(from), begin, end, block_max});
    };
    mask(0, min_of((full_lo - lo) * mr, count));
    mask((full_hi - lo) * mr, count);
  }

  /// Scores of one run of panels with softcap, bias, ALiBi and mask.
  void scores_with_terms(const Tile& tile, const Block& block, const Run& run, float* block_max) const {
    const std::int64_t mr = kernels.mr, from = (run.first - block.first) / mr;
    score(tile, run.at, from, from + (run.count + mr - 1) / mr, nullptr);
    const void* bias[kMaxLanes];
    const std::uint8_t* mask[kMaxLanes];
    alignas(64) float slope[kMaxLanes];
    alignas(64) std::int32_t position[kMaxLanes], begin[kMaxLanes], end[kMaxLanes];
    for (std::int64_t n = 0; n < tile.nr; ++n) {
      const std::int64_t row =
          tile.row + min_of(n, tile.used - 1);  // absent queries read what a present one reads
      if (head.terms.has_bias) bias[n] = head.bias_row(row, run.first);
      if (head.terms.has_mask) mask[n] = head.mask_row(row, run.first);
      if (head.terms.has_alibi) {
        slope[n] = head.slope_of(row);
        position[n] = head.position_of(row, run.first);
      }
    }
    float* s = scratch.scores + run.at * tile.nr;
    kernels.score->tile(
        {s, run.count, tile.nr, &head.terms, bias, mask, slope, position, kernels.score_scale(head.q_scale)});
    lane_intervals(tile, run.first, run.count, begin, end);
    kernels.softmax->mask_scores({s, run.count, tile.nr, 0, begin, end, block_max});
  }

  /// Runs of panels within [lo, hi) of which the mask shows a key to a query of the tile. `last`: end of the
  /// keys.
  void visible_runs(const Tile& tile, const Block& block, std::int64_t lo, std::int64_t hi, std::int64_t last,
                    Runs& runs) const {
    const std::int64_t mr = kernels.mr, first = block.first + lo * mr, keys = last - first;
    std::uint8_t any[kBlockKeys] = {};
    const std::uint8_t* before = nullptr;
    for (std::int64_t n = 0; n < tile.used; ++n) {
      const std::uint8_t* row = head.mask_row(tile.row + n, first);
      if (row == before) continue;  // a mask that heads or positions share
      before = row;
      if (head.terms.mask_stride == 1) {
        for (std::int64_t j = 0; j < keys; ++j) any[j] |= row[j];
      } else {
        for (std::int64_t j = 0; j < keys; ++j) any[j] |= row[j * head.terms.mask_stride];
      }
    }
    std::int64_t open = -1;
    for (std::int64_t panel = lo; panel <= hi; ++panel) {
      bool visible = false;
      for (std::int64_t j = (panel - lo) * mr; panel < hi && j < min_of((panel - lo + 1) * mr, keys); ++j)
        visible = visible || any[j] != 0;
      if (visible && open < 0) open = panel;
      if (!visible && open >= 0) {
        const std::int64_t at = block.first + open * mr;
        runs.add(at, min_of(block.first + panel * mr, last) - at);
        open = -1;
      }
    }
  }

  void tile_block(Tile& tile, const Block& block) const {
    const std::int64_t last_row = tile.row + tile.used - 1, mr = kernels.mr;
    // Begin and end grow with the row, so the first and the last row bound what any row (lo, hi) and every
    // row (all_lo, all_hi) sees.
    const std::int64_t lo = max_of(block.first, head.begin_of(tile.row)),
                       hi = min_of(block.last, head.end_of(last_row));
    if (lo >= hi) return;
    const std::int64_t all_lo = max_of(lo, head.begin_of(last_row)),
                       all_hi = min_of(hi, head.end_of(tile.row));

    const std::int64_t panel_lo = (lo - block.first) / mr, panel_hi = (hi - block.first + mr - 1) / mr;
    std::int64_t full_lo = (all_lo - block.first + mr - 1) / mr,
                 full_hi = all_hi > block.first ? (all_hi - block.first) / mr : 0;
    if (full_lo >= full_hi) full_lo = full_hi = panel_hi;  // no panel is seen by all: one masked stretch

    alignas(64) float block_max[kMaxLanes], alpha[kMaxLanes];
    for (std::int64_t n = 0; n < tile.nr; ++n) block_max[n] = -std::numeric_limits<float>::infinity();
    Runs runs;
    const std::int64_t first = block.first + panel_lo * mr;
    if (head.terms.has_mask) {
      visible_runs(tile, block, panel_lo, panel_hi, hi, runs);
      if (runs.size == 0) return;
    } else {
      runs.add(first, hi - first);
    }
    if (head.terms.any()) {
      for (std::int64_t r = 0; r < runs.size; ++r) scores_with_terms(tile, block, runs.run[r], block_max);
    } else {
      plain_scores(tile, block, panel_lo, panel_hi, full_lo, full_hi, hi - first, block_max);
    }

    if (tile.split_empty) {
      for (std::int64_t n = 0; n < tile.nr; ++n) {
        tile.split.m[n] = -std::numeric_limits<float>::infinity();
        tile.split.l[n] = 0.0f;
      }
    }
    kernels.softmax->probabilities({scratch.scores, runs.count, tile.nr, block_max, tile.split.m,
                                    tile.split.l, alpha,
                                    head.terms.any() ? 1.0f : kernels.score_scale(head.q_scale)});
    for (std::int64_t r = 0; r < runs.size; ++r) {
      add_values(tile, block, runs.run[r], alpha);
      for (std::int64_t n = 0; n < tile.nr; ++n) alpha[n] = 1.0f;
    }
    if (block.finite_values) return;
    for (std::int64_t r = 0; r < runs.size; ++r) add_poison(tile, runs.run[r]);
  }

  /// O^T = O^T * alpha + V^T P^T over a run of keys.
  void add_values(Tile& tile, const Block& block, const Run& run, const float* alpha) const {
    const std::int64_t mr = kernels.mr;
    const GemmRow& gemm = *kernels.gemm[tile.nr / kernels.lanes - 1];
    const GemmArgs args{
        scratch.values + kernels.steps(run.first - block.first) * mr,
        kernels.steps(block.last - block.first) * mr * static_cast<std::int64_t>(sizeof(float)),
        scratch.scores + kernels.steps(run.at) * tile.nr,
        tile.split.o,
        kernels.steps(run.count),
        scratch.o_rows / mr,
        alpha,
        nullptr};
    (tile.split_empty ? gemm.init : gemm.accumulate)(&args);
    tile.split_empty = false;
  }

  void store_partial(const Tile& tile, std::int64_t split) const {
    const std::int64_t dim = head.v_head_dim, size = partial_size(dim);
    float* state =
        range.partial + ((split - range.partial_split) * head.group * head.q_len + tile.row) * size;
    void* rows[kMaxLanes];
    alignas(64) float one[kMaxLanes];
    for (std::int64_t n = 0; n < tile.used; ++n) {
      float* row = state + n * size;
      if (tile.split_empty) std::memset(row, 0, static_cast<std::size_t>(dim) * sizeof(float));
      row[dim] = tile.split_empty ? -std::numeric_limits<float>::infinity() : tile.split.m[n];
      row[dim + 1] = tile.split_empty ? 0.0f : tile.split.l[n];
      rows[n] = row;
    }
    if (tile.split_empty) return;
    for (std::int64_t n = 0; n < tile.nr; ++n) one[n] = 1.0f;
    kernels.store_partial->tile({tile.split.o, one, tile.nr, dim, rows, tile.used});
  }

  void end_split(Tile& tile, std::int64_t split) const {
    if (range.partial) return store_partial(tile, split);
    if (tile.split_empty) return;
    if (tile.total_empty) {
      const TileState spare = tile.total;
      tile.total = tile.split;
      tile.split = spare;
      tile.total_empty = false;
    } else {
      kernels.state->merge_tile({tile.total, tile.split, tile.nr, scratch.o_rows});
    }
  }

  void store_rows(const Tile& tile) const {
    void* rows[kMaxLanes];
    alignas(64) float inverse[kMaxLanes];
    for (std::int64_t n = 0; n < tile.nr; ++n)
      inverse[n] = n < tile.used && !tile.total_empty ? inverse_sum(tile.total.l[n]) : 0.0f;
    for (std::int64_t n = 0; n < tile.used; ++n) {
      rows[n] = head.out_row(kernels.output, tile.row + n);
      if (tile.total_empty)  // +0 has no bits set in any element type
        std::memset(rows[n], 0, static_cast<std::size_t>(head.v_head_dim * bytes_of(kernels.output)));
      if (head.lse) {
        head.lse_of(tile.row + n) = tile.total_empty ? -std::numeric_limits<float>::infinity()
                                                     : log_sum_exp(tile.total.m[n], tile.total.l[n]);
      }
    }
    if (!tile.total_empty)
      kernels.store->tile({tile.total.o, inverse, tile.nr, head.v_head_dim, rows, tile.used});
  }

  void run() const {
    pack_queries();
    // Keys that share a step are the same two wherever the first visible one lies.
    const std::int64_t first = head.begin_of(range.row_begin) / kernels.per_step() * kernels.per_step(),
                       last = head.end_of(range.row_end - 1);
    for (std::int64_t split = range.split_begin; split < range.split_end; ++split) {
      const std::int64_t from = max_of(split * kSplitKeys, first),
                         to = min_of((split + 1) * kSplitKeys, last);
      if (from >= to && !range.partial) continue;
      for (std::int64_t t = 0; t < scratch.tile_count; ++t) scratch.tiles[t].split_empty = true;
      for (std::int64_t at = from / kBlockKeys * kBlockKeys; at < to; at += kBlockKeys) {
        const Block block = pack_block(max_of(at, from), min_of(at + kBlockKeys, to));
        for (std::int64_t t = 0; t < scratch.tile_count; ++t) tile_block(scratch.tiles[t], block);
      }
      for (std::int64_t t = 0; t < scratch.tile_count; ++t) end_split(scratch.tiles[t], split);
    }
    if (range.partial) return;
    for (std::int64_t t = 0; t < scratch.tile_count; ++t) store_rows(scratch.tiles[t]);
  }
};

}  // namespace

std::size_t online_scratch_bytes(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim,
                                 std::int64_t v_head_dim) {
  Carver carver(nullptr);
  Scratch(carver, kernels, rows, head_dim, v_head_dim);
  return carver.used();
}

void online_run(const KernelSet& kernels, const HeadProblem& head, const TaskRange& range,
                std::byte* memory) noexcept {
  Carver carver(memory);
  const Scratch scratch(carver, kernels, range.row_end - range.row_begin, head.head_dim, head.v_head_dim);
  Task{kernels, head, range, scratch}.run();
}

}  // namespace kumiko::kernels
