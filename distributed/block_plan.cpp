// SPDX-License-Identifier: Apache-2.0
#include "distributed/block_plan.h"

#include <algorithm>

namespace kumiko::distributed {

std::vector<Interval> rows_of(const Work& work, std::int64_t length, int ranks, int rank) {
  std::vector<Interval> rows;
  const std::int64_t parts = part_count(work, length, ranks);
  for (std::int64_t part = 0; part < parts; ++part) {
    if (owner_of_part(work, part, ranks) != rank) continue;
    const Interval of_part = part_of(work, length, kKeysPerSplit, part, ranks);
    if (of_part.size() <= 0) continue;
    if (!rows.empty() && rows.back().end == of_part.begin)
      rows.back().end = of_part.end;
    else
      rows.push_back(of_part);
  }
  return rows;
}

std::int64_t BlockPlan::count(const std::vector<Interval>& rows) {
  std::int64_t all = 0;
  for (const Interval& part : rows) all += part.size();
  return all;
}

BlockPlan::BlockPlan(const Work& work, const Reach& reach, int ranks)
    : work_(work), reach_(reach), ranks_(ranks) {
  std::int64_t longest = 0;
  for (const SequenceLengths& lengths : work.sequences) {
    std::vector<int>& owners = owners_.emplace_back();
    owners.resize(static_cast<std::size_t>((lengths.kv_len + kKeysPerSplit - 1) / kKeysPerSplit));
    longest = std::max(longest, lengths.kv_len);
    for (int rank = 0; rank < ranks; ++rank) {
      rows_.push_back(
          {rows_of(work, lengths.q_len, ranks, rank), rows_of(work, lengths.kv_len, ranks, rank)});
      for (const Interval& keys : rows_.back().keys) {
        for (std::int64_t key = keys.begin; key < keys.end; key += kKeysPerSplit)
          owners[static_cast<std::size_t>(key / kKeysPerSplit)] = rank;
      }
    }
  }
  const std::int64_t size = work.block_keys / kKeysPerSplit,
                     splits = (longest + kKeysPerSplit - 1) / kKeysPerSplit;
  for (std::int64_t at = 0; at < splits; at += size) add_step(at, std::min(at + size, splits));
}

std::int64_t BlockPlan::place_of_key(std::size_t sequence, int owner, std::int64_t key) const {
  std::int64_t before = 0;
  for (const Interval& keys : key_rows(sequence, owner)) {
    if (key < keys.end) return before + key - keys.begin;
    before += keys.size();
  }
  return before;
}

/// An interval of rows sees the keys from the first that its first row sees to the last that its last row
/// sees.
bool BlockPlan::sees(const SequenceLengths& lengths, const std::vector<Interval>& rows,
                     const Interval& keys) const {
  const std::int64_t offset = reach_.is_top_left ? 0 : lengths.kv_len - lengths.q_len,
                     after = reach_.is_causal ? 0 : reach_.window_right;
  return std::any_of(rows.begin(), rows.end(), [&](const Interval& part) {
    if (reach_.is_any) return true;
    const bool is_behind = after >= 0 && part.end - 1 + offset + after < keys.begin,
               is_before = reach_.window_left >= 0 && part.begin + offset - reach_.window_left >= keys.end;
    return !is_behind && !is_before;
  });
}

bool BlockPlan::sees(int rank, const Message& message) const {
  return std::any_of(message.splits.begin(), message.splits.end(), [&](const Split& split) {
    const auto sequence = static_cast<std::size_t>(split.sequence);
    const SequenceLengths& lengths = work_.sequences[sequence];
    const std::int64_t first = split.number * kKeysPerSplit;
    return sees(lengths, query_rows(sequence, rank),
                {first, std::min(first + kKeysPerSplit, lengths.kv_len)});
  });
}

void BlockPlan::add_step(std::int64_t begin, std::int64_t end) {
  Step& step = steps_.emplace_back();
  step.split_begin = begin;
  step.split_end = end;
  step.computes.assign(static_cast<std::size_t>(ranks_), false);
  std::vector<std::vector<Split>> of_owner(static_cast<std::size_t>(ranks_));
  for (std::size_t b = 0; b < owners_.size(); ++b) {
    const auto splits = std::min(end, static_cast<std::int64_t>(owners_[b].size()));
    for (std::int64_t split = begin; split < splits; ++split)
      of_owner[static_cast<std::size_t>(owner_of(b, split))].push_back({static_cast<std::int32_t>(b), split});
  }
  std::int64_t pages = 0;
  for (int owner = 0; owner < ranks_; ++owner) {
    std::vector<Split>& splits = of_owner[static_cast<std::size_t>(owner)];
    if (splits.empty()) continue;
    Message message{std::move(splits), pages, {owner}};
    for (int i = 0; i < ranks_; ++i) {
      const int rank = (owner + i) % ranks_;
      if (!sees(rank, message)) continue;
      step.computes[static_cast<std::size_t>(rank)] = true;
      if (i > 0) message.members.push_back(rank);
    }
    pages += std::ssize(message.splits);
    step.messages.push_back(std::move(message));
  }
  most_pages_ = std::max(most_pages_, pages);
}

}  // namespace kumiko::distributed
