// SPDX-License-Identifier: Apache-2.0
// The steps of the canonical walk (pipeline.h) for tiles of queries in vector lanes. Each tile pipeline is an
// order of these steps; what a step computes does not depend on it, so every pipeline gives the same bits.
//
// - score: S^T = K Q^T, or precomputed scores; row maxima come from the registers; hidden scores become -inf
// - exponentiate: P^T = 2^(S^T - m) in place; raises m and l; alpha = 2^(m before - m)
// - add_values: O^T = O^T * alpha + V^T P^T
//
// A slot holds S^T, then P^T, of one tile over one block. Pipelines differ in how many slots there are and in
// how long each waits between two steps.
//
// Packing per task, not per domain: no barrier between packing and use, scratch independent of kv_len, and
// with r rows a packed element is used by r FMAs, so the copy is 1-2 % of the work from r = 192 on.
#pragma once

#include "kernels/pipelines/masks.h"
#include "kernels/pipelines/next_rows.h"
#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

inline constexpr std::int64_t kMaxLanes = 64;  // the widest query tile of all ISAs

/// Rows of the tile that begins at row `from` of a task. A remainder of a single vector is slow (Zen 5: 0.8
/// of peak with AVX-512, 0.54 with AVX2), so 3 + 1 vectors become 2 + 2.
std::int64_t rows_of_tile(const KernelSet& kernels, std::int64_t from, std::int64_t rows);

struct Tile {
  std::int64_t from;        // first row, counted from the task's
  std::int64_t row = 0;     // the same row, counted from the KV head's first
  std::int64_t used;        // rows in it
  std::int64_t nr;          // lanes computed
  std::byte* q;             // [head_dim][nr], in steps of the product
  float* q_range;           // [nr], product f16 (pack.h), or factors of int8 queries
  TileState split;          // state of the current splits: m, l [staged_splits][nr], o of one of them
  TileState total;          // state of the splits before them
  bool split_empty = true;  // o holds nothing
  bool total_empty = true;
  bool total_waits = false;  // total is still in memory: running states, not loaded yet
};

/// Keys [first, last), panels counted from `first`.
struct Block {
  std::int64_t first, last;
  const std::byte* values;    // A panels of the output product, in steps of the product (pack.h)
  std::int64_t value_stride;  // bytes from one panel to the next
  std::int64_t value_step;    // bytes from one step to the next
  bool ordinary_values;       // finite, and none beyond KernelSet::value_limit()
  bool values_in_keys =
      false;  // `values` are elements of the packed keys, value_stride apart from panel to panel
};

/// Rows [at, at + count) of S^T are keys [first, first + count).
struct Run {
  std::int64_t first, count, at;
  bool unmasked;  // the mask, if any, shows every key to every query of the tile
};
struct Runs {
  Run run[kBlockKeys / 2 + 1];
  std::int64_t size = 0;
  std::int64_t count = 0;  // rows of S^T
  void add(std::int64_t first, std::int64_t keys, bool unmasked) {
    run[size++] = {first, keys, count, unmasked};
    count += keys;
  }
  /// add(), or, if is_one (a block's keys must be one run: KernelSet::has_block_chains), extends the run
  /// before, if any, to the end of these keys. Keys in between are then hidden one by one, so that no row's
  /// chain is cut where its neighbours see nothing.
  void join(std::int64_t first, std::int64_t keys, bool unmasked, bool is_one) {
    if (size == 0 || !is_one) return add(first, keys, unmasked);
    Run& last = run[size - 1];
    count += first + keys - last.first - last.count;
    last.unmasked = last.unmasked && unmasked && last.first + last.count == first;
    last.count = first + keys - last.first;
  }
};

struct alignas(64) Slot {
  float block_max[kMaxLanes], alpha[kMaxLanes];
  float* scores;  // [kBlockKeys][nr]
  Runs runs;      // none: no query of the tile sees a key of the block
};

class Walk {
 public:
  /// Lays the scratch of a task of at most `rows` rows out over `memory`; with nullptr it only counts.
  Walk(const KernelSet& kernels, std::int64_t rows, std::int64_t head_dim, std::int64_t v_head_dim,
       std::int64_t slots, std::byte* memory);
  std::size_t scratch_bytes() const { return scratch_bytes_; }
  /// Tiles of a task of that many rows.
  static std::int64_t tiles_of(const KernelSet& kernels, std::int64_t rows) {
    if (rows <= kernels.max_nr) return min_of(rows, 1);  // without divisions
    const auto tiles = [&](std::int64_t n) { return (n + kernels.max_nr - 1) / kernels.max_nr; };
    return rows / kernels.strip * tiles(kernels.strip) + tiles(rows % kernels.strip);
  }

  /// Packs the queries; the task's steps may follow.
  void begin(const HeadProblem& head, const TaskRange& range);
  /// Writes out and lse, running states or one state of all splits, unless the task stores the state of each
  /// split.
  void finish() const;

  std::int64_t tile_count() const { return tile_count_; }
  Tile& tile(std::int64_t t) const { return tiles_[t]; }
  Slot& slot(std::int64_t s) const { return slots_[s]; }

  /// Keys [from, to) of a split that some row of the task sees, except [gap_from, gap_to) between first
  /// tokens and a window. `skip`: there are none, and nothing need be stored.
  struct Keys {
    std::int64_t from, to;
    bool skip;
    std::int64_t gap_from, gap_to;
    std::int64_t first_block() const { return from / kBlockKeys * kBlockKeys; }
    std::int64_t next_block(std::int64_t at) const {
      at += kBlockKeys;
      while (at < to && at >= gap_from && min_of(at + kBlockKeys, to) <= gap_to) at += kBlockKeys;
      return at;
    }
  };
  Keys keys_of(std::int64_t split) const;
  Block block_at(std::int64_t at, const Keys& keys) const;

  void pack_keys(const Block& block) const;
  void pack_values(Block& block) const;
  /// pack_values() where `block` is the one whose keys were packed last: values that are elements of these
  /// are used where they are, so that a latent (MLA) is read and packed once for both products.
  void set_values(Block& block) const;

  /// Makes the products of the block at `at` fetch the rows of the block after it, in this split or the next.
  void look_ahead(std::int64_t split, std::int64_t at, const Keys& keys) const;

  /// `stage`: which of the staged splits the (m, l) belong to.
  void begin_sums(std::int64_t stage) const;
  void score(const Tile& tile, const Block& block, Slot& slot) const;
  void exponentiate(const Tile& tile, Slot& slot, std::int64_t stage) const;
  void begin_values() const;
  void add_values(Tile& tile, const Block& block, Slot& slot) const;
  void begin_split(std::int64_t stage) const {
    begin_sums(stage);
    begin_values();
  }
  void end_split(std::int64_t split, std::int64_t stage) const;

 private:
  struct RowsInPlace {
    const void* first;
    std::int64_t stride;
  };
  void query_rows(const Tile& tile, const void** rows) const;
  void pack_key_tiles(const Block& block) const;
  bool finds_values_in_keys(const Block& block) const;
  bool takes_values_in_place() const;
  RowsInPlace rows_of(const KeyRows& rows, Element element, std::int64_t dim, const Block& block) const;
  void end_tile(Tile& tile, std::int64_t split, std::int64_t stage) const;
  void product(const Tile& tile, const Block& block, const Slot& slot, std::int64_t at, std::int64_t from,
               std::int64_t to, float* block_max) const;
  void run_product(GemmFunction gemm, const GemmArgs& args, std::int64_t nr, std::int64_t panel_stride) const;
  std::int64_t last_rows(const Tile& tile, std::int64_t rows) const;
  void lane_intervals(const Tile& tile, std::int64_t origin, std::int64_t count, std::int32_t* begin,
                      std::int32_t* end) const;
  std::int64_t first_tokens_end(const Run& run, std::int64_t from, std::int64_t to) const;
  void hide(const Tile& tile, const Slot& slot, const Run& run, std::int64_t from, std::int64_t to,
            float* block_max) const;
  void load_scores(const Tile& tile, Slot& slot, bool all_visible) const;
  void scores_with_terms(const Tile& tile, const Block& block, const Run& run, const ScoreTerms& terms,
                         Slot& slot) const;
  void scaled_scores(const Tile& tile, const Block& block, const Run& run, const ScoreTerms& terms,
                     const Slot& slot, float* block_max) const;
  void set_masks(const Tile& tile, const Block& block) const;
  TileMask tile_mask(const Tile& tile, const Block& block, std::int64_t first, std::int64_t keys) const;
  void fetch_mask(const Tile& tile, std::int64_t first, std::int64_t keys) const;
  void visible_runs(const Tile& tile, const Block& block, std::int64_t lo, std::int64_t hi, std::int64_t last,
                    Runs& runs) const;
  void first_runs(const Tile& tile, const Block& block, Runs& runs) const;
  void score_with_first_tokens(const Tile& tile, const Block& block, Slot& slot) const;
  bool is_ordinary(float value) const;
  float probability(const Tile& tile, const Slot& slot, std::int64_t j, std::int64_t n) const;
  float score_scale() const;
  void find_queries_seeing(const Tile& tile, const Run& run, std::uint64_t* of_key) const;
  void add_poison(const Tile& tile, const Slot& slot, const Run& run) const;
  void store_partial(const Tile& tile, std::int64_t split, std::int64_t stage) const;
  void store_merged(const Tile& tile) const;
  void store_rows(const Tile& tile) const;
  void fetch_running(const Tile& tile) const;
  void load_running(Tile& tile) const;
  void store_running(const Tile& tile) const;

  const KernelSet& kernels_;
  const HeadProblem* head_ = nullptr;
  const TaskRange* range_ = nullptr;
  std::int64_t tile_count_;
  std::int64_t o_rows_;  // v_head_dim rounded up to MR
  Tile* tiles_;
  Slot* slots_;
  std::byte *keys_, *values_;   // panels in steps of the product (pack.h)
  float* key_range_;            // [kBlockKeys rounded up to MR], product f16, or factors of int8 keys
  std::byte* gathered_;         // [kBlockKeys] rows of K or V that lie in several pages
  const std::uint8_t** masks_;  // [kMaxLanes] rows of the mask from the block's first key on
  std::uint8_t* made_masks_;    // [max_nr][kBlockKeys] made from lists; only where there are any
  std::size_t scratch_bytes_;
  mutable NextRows next_;
};

}  // namespace kumiko::kernels
