// SPDX-License-Identifier: Apache-2.0
// Cuts a problem into tasks in one way: rows into blocks, one piece in five finer, and keys where rows alone
// do not divide the work.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/partition.h"
#include "runtime/row_block.h"

namespace kumiko {

/// How one piece in five is cut finer.
enum class FineRows : std::uint8_t {
  halves,  ///< Half, a quarter, ...: enough if pieces divide evenly but cores are not equally fast.
  sixths,  ///< Fills larger gaps.
};

struct Way {
  FineRows fine_rows;
  std::int64_t tasks_per_worker;  ///< Target for the pieces that are not cut finer.
  std::int64_t least_tiles = 1;   ///< Of a row block. With more than one, keys alone are cut finer.
};

class Partitioner {
 public:
  Partitioner(const Problem& problem, const Tunings& tunings, std::span<const std::int32_t> kv_domains,
              std::int64_t workers, const Way& way, PartitionSpace& space, Partition& made);

  /// Whether `way` gives another partition than the others: there are so few rows that blocks would otherwise
  /// have fewer than way.least_tiles tiles.
  static bool matters(const Way& way, const Problem& problem, const Tunings& tunings, std::int64_t workers);
  /// There are so few row blocks that they may not divide the work well.
  bool wants_fine() const { return wants_fine_; }
  /// What the partition needs at most, whatever the lengths are. Makes the row blocks, except those of
  /// decode.
  PartitionSize most();

  /// Fills the partition's tasks, costs and merges. Errors: those of make_partition().
  Status run();

 private:
  // Inline in the one file that calls them.
  inline void clear();
  /// How many KV heads a task of decode has.
  void set_heads();
  inline std::int64_t heads_from(std::int64_t b, std::int64_t h) const;
  inline void set_costs();
  /// All tasks of sequence b. This and what it calls are false if the split states would be too large.
  inline bool take(std::int64_t b);
  /// Splits in the next piece of a block that has `left` splits left. block_cost: of all heads.
  inline std::int64_t next_piece(const RowBlock& block, std::int64_t block_cost, std::int64_t left,
                                 bool is_fine) const;
  /// Splits of the first of equal pieces that cost about `most` each, so that no small piece remains.
  static inline std::int64_t piece_of(std::int64_t left, std::int64_t split_cost, std::int64_t most);
  /// The groups' rows over the keys that they share.
  Status add_shared();
  Status cut_shared(const RowBlock& block, std::int64_t group, std::int64_t h);
  /// Cuts block i of sequence b.
  inline bool cut_block(std::int64_t b, std::int64_t i, std::int64_t heads, bool is_fine, BlockWay& way);
  inline bool cut_keys(const RowBlock& block, std::int64_t heads, bool is_fine);
  /// The pieces as tasks of the heads from h on.
  inline void add_tasks(const BlockCut& cut, std::int64_t b, std::int64_t h, std::int64_t heads,
                        std::size_t first_task);
  /// Makes made_.tasks and made_.costs large enough for `tasks` tasks in all.
  void make_room(std::size_t tasks);
  /// A merge for each head of the tasks that were added last.
  inline bool add_merges(const BlockCut& cut, std::int64_t b, std::int64_t h, std::int64_t heads,
                         std::size_t first_task);
  inline bool are_merged_in_order(const BlockCut& cut) const;
  std::int32_t group_of(std::int64_t b, std::int64_t h) const;
  std::int32_t home_of(std::int32_t group) const;

  const Problem& problem_;
  const std::span<const std::int32_t> kv_domains_;
  RowBlocks& blocks_;
  Partition& made_;
  const std::int64_t workers_, tasks_;  // tasks_: target of the cut, without the finer pieces
  RowCut cut_;
  const kernels::PipelineRow* pipeline_ = nullptr;  // of the sequence at hand
  std::int64_t tile_rows_ = 0;                      // most rows of a block of tiles
  std::int64_t count_ = 0;  // row blocks. q fits in the address space, so this, batch * kv_heads and batch *
                            // kv_heads * rows are below 2^62
  std::int64_t most_blocks_ = 0;  // of a sequence
  std::int64_t heads_ = 1;        // of a task of decode
  bool wants_fine_;
  bool fine_keys_;
  std::int64_t coarse_ = 0, fine_cost_ = 0;  // costs of pieces
  bool single_splits_ = false;               // few splits in all: each is a piece
  std::uint64_t number_ = 0;                 // blocks taken so far, each once for each task of heads
  std::size_t num_tasks_ = 0;                // tasks so far; made_ may have more entries, without values
  std::vector<Piece>& pieces_;
  std::vector<BlockCut>& cuts_;
  std::vector<BlockWay>& ways_;
};

}  // namespace kumiko
