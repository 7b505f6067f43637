// SPDX-License-Identifier: Apache-2.0
// Sequences whose block tables begin with the same pages: the keys there are read once for all of them. A
// split of keys gives a row the same state whoever computes it, so no bit changes: tasks store the states of
// shared splits for the rows of several sequences, and each row merges them before its own.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/problem.h"

namespace kumiko {

/// Finds which sequences have pages in common, from the values of a table.
class CommonPagesFinder {
 public:
  /// Lists only sequences of at most `most_rows` rows a KV head: longer ones are bound by arithmetic. Reads
  /// only entries that a run of `problem` reads.
  void find(const Problem& problem, const PageTable& table, std::int64_t most_rows, CommonPages* common);

 private:
  struct Prefix {
    const std::int32_t* pages;
    std::int64_t splits;
    std::int32_t sequence;
  };
  std::vector<Prefix> prefixes_;
};

/// The most rows that a group of such sequences can have, whatever the table.
std::int64_t most_shared_rows(const Problem& problem, std::int64_t most_rows);

/// Splits that a set of sequences shares and no larger set does.
struct SharedKeys {
  std::int64_t split_begin, split_end;
  std::int64_t first, last;                   ///< CommonPages::sequences [first, last)
  std::int64_t position_begin, position_end;  ///< Their query positions in SharedGroups::q_offsets.
};

/// The groups of a problem with its current lengths. A group may lie within another, as branches of a tree
/// do.
struct SharedGroups {
  std::vector<SharedKeys> groups;
  std::vector<std::int64_t>
      q_offsets;                    ///< Elements of q before each query position of CommonPages::sequences.
  std::vector<std::int64_t> begin;  ///< [sequences + 1] of CommonPages: their first position in q_offsets.
  std::vector<std::int64_t> own_split;  ///< [batch] the first split that a sequence does not share; or empty.
  std::vector<std::int32_t> place;      ///< [batch] the sequence's index in CommonPages, or -1; or empty.

  void find(const Problem& problem);
  std::int64_t own_split_of(std::int64_t b) const {
    return own_split.empty() ? 0 : own_split[static_cast<std::size_t>(b)];
  }
  /// Changes `head`, that of the group's first sequence, into one whose rows are those of the group and whose
  /// keys end with the shared ones.
  void as_group(const Problem& problem, const Operands& operands, const SharedKeys& group,
                std::int64_t kv_head, kernels::HeadProblem* head) const;
  /// Calls visit(number of the group, first_row()) for a sequence's groups, in the order of their splits.
  template <class Visit>
  void for_each_group_of(std::int64_t b, std::int64_t rows, Visit visit) const {
    const std::int64_t i = place[static_cast<std::size_t>(b)];
    for (std::int64_t g = 0; g < std::ssize(groups); ++g) {
      const SharedKeys& group = groups[static_cast<std::size_t>(g)];
      if (group.first <= i && i < group.last) visit(g, first_row(group, i, rows));
    }
  }
  /// The first of the group's rows that is one of its i-th sequence, with `rows` rows a position.
  std::int64_t first_row(const SharedKeys& group, std::int64_t i, std::int64_t rows) const {
    return (begin[static_cast<std::size_t>(i)] - group.position_begin) * rows;
  }
  /// Whether some of the group's rows [row_begin, row_end) are the sequence's.
  bool has_rows(const SharedKeys& group, std::int64_t i, std::int64_t rows, std::int64_t row_begin,
                std::int64_t row_end) const {
    return first_row(group, i, rows) < row_end && first_row(group, i + 1, rows) > row_begin;
  }

 private:
  struct Range {
    std::int64_t first, last, split;
  };
  std::vector<Range> open_;
  std::vector<std::int64_t> depth_;
};

/// Whether the sequences of each group have the same pages in this table too. Errors: invalid_argument.
Status check_shared_pages(const Problem& problem, const SharedGroups& shared, const PageTable& table);

}  // namespace kumiko
