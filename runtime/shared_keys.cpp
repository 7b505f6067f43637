// SPDX-License-Identifier: Apache-2.0
#include "runtime/shared_keys.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "runtime/validate_parts.h"

namespace kumiko {
namespace {

using kernels::kSplitKeys;
using kernels::min_of;

/// How many of a sequence's first pages hold its first `splits` splits.
std::int64_t pages_in(const Problem& problem, std::int64_t splits) {
  return (splits * kSplitKeys + problem.page_keys - 1) / problem.page_keys;
}

/// Without a window: the number of first splits of which every row of the sequence sees every key. The last
/// split that some row sees does not count, so that each sequence keeps a task of its own.
std::int64_t whole_splits(const Problem& problem, std::int64_t b) {
  const std::int64_t rows = problem.rows_of(b);
  if (rows == 0) return 0;
  const kernels::HeadProblem head = problem.keys_seen(b);
  const std::int64_t seen = (head.end_of(rows - 1) + kSplitKeys - 1) / kSplitKeys;
  return std::max<std::int64_t>(min_of(head.end_of(0) / kSplitKeys, seen - 1), 0);
}

/// Whether sequences can share splits: only if scores depend on nothing but the query and the key.
bool can_share(const Problem& problem) {
  return problem.has_block_table && problem.window_left < 0 && !problem.terms.has_bias &&
         !problem.terms.has_mask && !problem.terms.has_alibi;
}

/// Splits at the start of two sequences whose pages are the same.
std::int64_t common_splits(const Problem& problem, const std::int32_t* a, const std::int32_t* b,
                           std::int64_t most) {
  const std::int64_t pages = pages_in(problem, most);
  const std::int64_t same = std::mismatch(a, a + pages, b).first - a;
  return same == pages ? most : same * problem.page_keys / kSplitKeys;
}

}  // namespace

void CommonPagesFinder::find(const Problem& problem, const PageTable& table, std::int64_t most_rows,
                             CommonPages* common) {
  common->sequences.clear();
  common->splits.clear();
  if (!can_share(problem)) return;
  prefixes_.clear();
  for (std::int64_t b = 0; b < problem.batch; ++b) {
    if (problem.rows_of(b) > most_rows) continue;
    // If kv_indptr gives a sequence too few pages, only these are read here; a run is refused.
    const std::int64_t listed = problem.number_of_pages(table, b) * problem.page_keys / kSplitKeys;
    if (const std::int64_t splits = min_of(whole_splits(problem, b), listed); splits > 0)
      prefixes_.push_back({problem.pages_of(table, b), splits, static_cast<std::int32_t>(b)});
  }
  // Any order in which tables with the same first pages are neighbours, each after those that it is the
  // beginning of.
  std::sort(prefixes_.begin(), prefixes_.end(), [&](const Prefix& a, const Prefix& b) {
    const auto bytes =
        static_cast<std::size_t>(pages_in(problem, min_of(a.splits, b.splits))) * sizeof *a.pages;
    const int order = std::memcmp(a.pages, b.pages, bytes);
    if (order != 0) return order < 0;
    return a.splits != b.splits ? a.splits > b.splits : a.sequence < b.sequence;
  });
  bool any = false;
  for (std::size_t i = 0; i < prefixes_.size(); ++i) {
    const Prefix& at = prefixes_[i];
    common->sequences.push_back(at.sequence);
    common->splits.push_back(i == 0 ? 0
                                    : common_splits(problem, prefixes_[i - 1].pages, at.pages,
                                                    min_of(prefixes_[i - 1].splits, at.splits)));
    any = any || common->splits.back() > 0;
  }
  if (any) return;
  common->sequences.clear();
  common->splits.clear();
}

std::int64_t most_shared_rows(const Problem& problem, std::int64_t most_rows) {
  std::int64_t rows = 0;
  for (std::int64_t b = 0; b < problem.batch && can_share(problem); ++b)
    rows += problem.rows_of(b) <= most_rows ? problem.rows_of(b) : 0;
  return rows;
}

void SharedGroups::find(const Problem& problem) {
  const CommonPages& common = problem.common;
  const std::int64_t count = std::ssize(common.sequences);
  groups.clear();
  q_offsets.clear();
  begin.clear();
  own_split.clear();
  place.clear();
  if (count == 0) return;
  depth_.clear();
  std::int64_t before = 0;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t b = common.sequences[static_cast<std::size_t>(i)], whole = whole_splits(problem, b);
    depth_.push_back(i == 0 ? 0 : std::min({common.splits[static_cast<std::size_t>(i)], before, whole}));
    before = whole;
    const Sequence sequence = problem.sequence(b);
    begin.push_back(std::ssize(q_offsets));
    for (std::int64_t q = 0; q < sequence.q_len; ++q)
      q_offsets.push_back((problem.has_cu_seqlens_q ? 0 : b * problem.q.batch) +
                          (sequence.q_begin + q) * problem.q.seq);
  }
  begin.push_back(std::ssize(q_offsets));
  own_split.assign(static_cast<std::size_t>(problem.batch), 0);
  place.assign(static_cast<std::size_t>(problem.batch), -1);
  for (std::int64_t i = 0; i < count; ++i)
    place[static_cast<std::size_t>(common.sequences[static_cast<std::size_t>(i)])] =
        static_cast<std::int32_t>(i);
  // A range of neighbours shares as many splits as the two neighbours in it that share fewest. Between such
  // neighbours it is cut into smaller ranges.
  open_.assign(1, {0, count, 0});
  while (!open_.empty()) {
    const Range range = open_.back();
    open_.pop_back();
    if (range.last - range.first < 2) continue;
    const auto from = depth_.begin() + range.first + 1, to = depth_.begin() + range.last;
    const std::int64_t shared = *std::min_element(from, to);
    if (shared > range.split) {
      groups.push_back({range.split, shared, range.first, range.last,
                        begin[static_cast<std::size_t>(range.first)],
                        begin[static_cast<std::size_t>(range.last)]});
      for (std::int64_t i = range.first; i < range.last; ++i)
        own_split[static_cast<std::size_t>(common.sequences[static_cast<std::size_t>(i)])] = shared;
    }
    std::int64_t first = range.first;
    for (std::int64_t i = first + 1; i <= range.last; ++i) {
      if (i < range.last && depth_[static_cast<std::size_t>(i)] > shared) continue;
      open_.push_back({first, i, std::max(shared, range.split)});
      first = i;
    }
  }
  if (groups.empty()) own_split.clear();
}

void SharedGroups::as_group(const Problem& problem, const Operands& operands, const SharedKeys& group,
                            std::int64_t kv_head, kernels::HeadProblem* head) const {
  head->q = kernels::element_at(problem.types.query, operands.q, kv_head * problem.group() * problem.q.head);
  head->q_offsets = q_offsets.data() + group.position_begin;
  head->q_len = group.position_end - group.position_begin;
  head->kv_len = group.split_end * kSplitKeys;
  head->begin_offset = -head->q_len;
  head->end_offset = head->kv_len;
  head->prefix = 0;
}

Status check_shared_pages(const Problem& problem, const SharedGroups& shared, const PageTable& table) {
  const auto row = [&](std::int64_t i) {
    return problem.pages_of(table, problem.common.sequences[static_cast<std::size_t>(i)]);
  };
  for (const SharedKeys& group : shared.groups) {
    const std::int64_t from = group.split_begin * kSplitKeys / problem.page_keys,
                       to = pages_in(problem, group.split_end);
    for (std::int64_t i = group.first + 1; i < group.last; ++i) {
      const std::int32_t *const first = row(group.first), *const here = row(i);
      const std::int64_t at = std::mismatch(first + from, first + to, here + from).first - first;
      if (at == to) continue;
      const std::int32_t b = problem.common.sequences[static_cast<std::size_t>(i)],
                         other = problem.common.sequences[static_cast<std::size_t>(group.first)];
      return invalid(name_of_page(problem.has_kv_indptr, b, at), here[at],
                     std::to_string(first[at]) + " as in sequence " + std::to_string(other) +
                         ", with which it shared its first " + std::to_string(group.split_end * kSplitKeys) +
                         " keys in the table that plan() or update() was given");
    }
  }
  return {};
}

}  // namespace kumiko
