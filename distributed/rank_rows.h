// SPDX-License-Identifier: Apache-2.0
// Which rows and keys a rank has, and how many pairs of them are visible. All in closed form: O(1) for an
// interval of rows and one of keys.
#pragma once

#include <kumiko/cost_model.h>

#include <cstdint>

namespace kumiko::distributed {

struct Interval {
  std::int64_t begin = 0, end = 0;
  std::int64_t size() const { return end - begin; }
};

/// The number of parts into which rows or keys of `length` are cut, and the rank that owns part `part`.
std::int64_t part_count(const Work& work, std::int64_t length, int ranks);
int owner_of_part(const Work& work, std::int64_t part, int ranks);
/// Part i of `length`, whose bounds are multiples of `unit` (the last one: length). Parts may be empty.
Interval part_of(const Work& work, std::int64_t length, std::int64_t unit, std::int64_t part, int ranks);

/// Visible pairs of query rows and keys of one sequence.
std::int64_t visible_pairs(const Work& work, const SequenceLengths& sequence, Interval rows, Interval keys);
/// Query rows that see one of the keys.
std::int64_t seeing_rows(const Work& work, const SequenceLengths& sequence, Interval keys);
/// Visible pairs of all sequences.
double all_pairs(const Work& work);

}  // namespace kumiko::distributed
