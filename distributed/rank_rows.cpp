// SPDX-License-Identifier: Apache-2.0
#include "distributed/rank_rows.h"

#include <algorithm>

namespace kumiko::distributed {
namespace {

/// The sum of clamp(first + i, low, high) for i in [0, count); low <= high.
std::int64_t sum_clamped(std::int64_t first, std::int64_t count, std::int64_t low, std::int64_t high) {
  const std::int64_t below = std::clamp<std::int64_t>(low - first, 0, count);
  const std::int64_t until = std::clamp<std::int64_t>(high - first, below, count);
  const std::int64_t inside = until - below;
  return below * low + (count - until) * high + inside * (first + below) + inside * (inside - 1) / 2;
}

/// Keys after its own position that a query sees, or -1 for all.
std::int64_t keys_after(const Work& work) {
  return work.is_causal ? 0 : work.window_right;
}

}  // namespace

std::int64_t part_count(const Work& work, std::int64_t length, int ranks) {
  switch (work.distribution) {
    case Distribution::contiguous:
      return ranks;
    case Distribution::zigzag:
      return 2 * std::int64_t{ranks};
    case Distribution::cyclic:
      return (length + work.cyclic_rows - 1) / work.cyclic_rows;
  }
  return ranks;
}

int owner_of_part(const Work& work, std::int64_t part, int ranks) {
  if (work.distribution == Distribution::cyclic) return static_cast<int>(part % ranks);
  return static_cast<int>(std::min(part, 2 * std::int64_t{ranks} - 1 - part));
}

Interval part_of(const Work& work, std::int64_t length, std::int64_t unit, std::int64_t part, int ranks) {
  const auto bound = [&](std::int64_t i) {
    if (work.distribution == Distribution::cyclic)
      return std::min((i * work.cyclic_rows + unit - 1) / unit * unit, length);
    const std::int64_t units = (length + unit - 1) / unit;
    return std::min(units * i / part_count(work, length, ranks) * unit, length);
  };
  return {bound(part), bound(part + 1)};
}

std::int64_t visible_pairs(const Work& work, const SequenceLengths& sequence, Interval rows, Interval keys) {
  const std::int64_t first = sequence.kv_len - sequence.q_len + rows.begin, count = rows.size();
  const std::int64_t after = keys_after(work);
  const std::int64_t ends =
      after < 0 ? count * keys.end : sum_clamped(first + after + 1, count, keys.begin, keys.end);
  const std::int64_t begins = work.window_left < 0
                                  ? count * keys.begin
                                  : sum_clamped(first - work.window_left, count, keys.begin, keys.end);
  return ends - begins;
}

std::int64_t seeing_rows(const Work& work, const SequenceLengths& sequence, Interval keys) {
  if (keys.size() <= 0) return 0;
  const std::int64_t offset = sequence.kv_len - sequence.q_len, after = keys_after(work);
  const std::int64_t first = after < 0 ? 0 : keys.begin - after - offset;
  const std::int64_t end = work.window_left < 0 ? sequence.q_len : keys.end + work.window_left - offset;
  return std::max<std::int64_t>(std::min(end, sequence.q_len) - std::max<std::int64_t>(first, 0), 0);
}

double all_pairs(const Work& work) {
  double pairs = 0;  // of one sequence up to 2^62
  for (const SequenceLengths& sequence : work.sequences)
    pairs += static_cast<double>(visible_pairs(work, sequence, {0, sequence.q_len}, {0, sequence.kv_len}));
  return pairs;
}

}  // namespace kumiko::distributed
