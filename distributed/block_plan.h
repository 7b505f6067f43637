// SPDX-License-Identifier: Apache-2.0
// Which block of keys is computed when, who sends it to whom, and where its splits lie in a buffer. Every
// rank makes the same plan from the same lengths. No MPI.
#pragma once

#include <kumiko/attention.h>
#include <kumiko/cost_model.h>

#include <cstdint>
#include <vector>

#include "distributed/rank_rows.h"

namespace kumiko::distributed {

/// Which keys a query sees, as far as that decides what travels.
struct Reach {
  bool is_causal = false;
  bool is_top_left = false;
  std::int64_t window_left = -1, window_right = -1;
  bool is_any = false;  ///< Prefixes, causal_sequences or first tokens: every rank with rows gets all keys.
};

/// A split of a sequence.
struct Split {
  std::int32_t sequence;
  std::int64_t number;
};

/// What an owner sends of a block: pages [first_page, first_page + splits.size()) of the buffer.
struct Message {
  std::vector<Split> splits;
  std::int64_t first_page = 0;
  std::vector<int> members;  ///< The owner first, then the ranks that need it, in the order they get it.
};

/// A block: splits [split_begin, split_end) of every sequence.
struct Step {
  std::int64_t split_begin, split_end;
  std::vector<Message> messages;
  std::vector<bool> computes;  ///< [ranks] Whether a row of the rank sees one of the keys.
};

class BlockPlan {
 public:
  /// Of `work` it uses sequences, distribution, cyclic_rows and block_keys.
  BlockPlan(const Work& work, const Reach& reach, int ranks);

  int ranks() const { return ranks_; }
  const Work& work() const { return work_; }
  const std::vector<Step>& steps() const { return steps_; }
  std::int64_t most_pages() const { return most_pages_; }  ///< Of a step.
  /// Rows of a rank, of queries and of keys.
  const std::vector<Interval>& query_rows(std::size_t sequence, int rank) const {
    return of(sequence, rank).queries;
  }
  const std::vector<Interval>& key_rows(std::size_t sequence, int rank) const {
    return of(sequence, rank).keys;
  }
  static std::int64_t count(const std::vector<Interval>& rows);
  /// Where a key lies among its owner's rows of the sequence.
  std::int64_t place_of_key(std::size_t sequence, int owner, std::int64_t key) const;

 private:
  struct RankRows {
    std::vector<Interval> queries, keys;
  };
  const RankRows& of(std::size_t sequence, int rank) const {
    return rows_[sequence * static_cast<std::size_t>(ranks_) + static_cast<std::size_t>(rank)];
  }
  int owner_of(std::size_t sequence, std::int64_t split) const {
    return owners_[sequence][static_cast<std::size_t>(split)];
  }
  bool sees(const SequenceLengths& lengths, const std::vector<Interval>& rows, const Interval& keys) const;
  bool sees(int rank, const Message& message) const;
  void add_step(std::int64_t begin, std::int64_t end);

  const Work work_;
  const Reach reach_;
  const int ranks_;
  std::vector<RankRows> rows_;            ///< [sequences][ranks]
  std::vector<std::vector<int>> owners_;  ///< [sequences][splits]
  std::vector<Step> steps_;
  std::int64_t most_pages_ = 0;
};

/// Rows of all of a rank's parts of a sequence, each a whole number of splits; empty ones left out.
std::vector<Interval> rows_of(const Work& work, std::int64_t length, int ranks, int rank);

}  // namespace kumiko::distributed
