// SPDX-License-Identifier: Apache-2.0
// Which keys of a block boolean masks show, as runs of keys: for one row in decode, for all queries of a tile
// in the walk. A mask's row is given from the block's first key on; keys are `stride` elements apart.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/pipelines/pipeline.h"

namespace kumiko::kernels {

inline constexpr std::int64_t kRowRuns = kBlockKeys / 2;  // the most runs that a row has in a block

/// Runs of the keys within [begin, end) that a row of a mask shows; nullptr: all. Returns how many runs.
inline std::int64_t runs_of_row(const std::uint8_t* row, std::int64_t stride, std::int32_t begin,
                                std::int32_t end, KeyRun* runs) {
  if (begin >= end) return 0;
  if (!row) {
    *runs = {begin, end};
    return 1;
  }
  std::int64_t count = 0;
  for (std::int32_t j = begin; j < end;) {
    while (j < end && row[j * stride] == 0) ++j;
    const std::int32_t first = j;
    while (j < end && row[j * stride] != 0) ++j;
    if (first < j) runs[count++] = {first, j};
  }
  return count;
}

/// The mask of a row from key `first` on, for `count` keys that are terms.mask_stride apart. With lists it is
/// made in `room`; terms.mask_stride is then 1.
inline const std::uint8_t* mask_of_row(const HeadProblem& head, std::int64_t row, std::int64_t first,
                                       std::int64_t count, std::uint8_t* room) {
  const std::uint8_t* given = head.mask ? head.mask_row(row, first) : nullptr;
  if (!head.lists.any()) return given;
  for (std::int64_t j = 0; j < count; ++j) room[j] = given ? given[j * head.mask_key_stride] : 1;
  head.lists.hide(row / head.group, row % head.group, first, count, room);
  return room;
}

/// What a tile's queries see of some keys: no query sees any (nothing), every query sees all (all), or
/// neither (some).
enum class Sees { nothing, some, all };

/// The masks of a tile's queries, put together key by key.
class TileMask {
 public:
  explicit TileMask(std::int64_t keys) : keys_(keys) { std::memset(by_all_, 255, sizeof by_all_); }

  static constexpr int kRows = 4;
  /// Adds several rows at a time, so that the waits for their pages overlap.
  void add(const std::uint8_t* const (&rows)[kRows], std::int64_t stride) {
    const std::int64_t keys =
        keys_;  // A copy: for the compiler, a byte written below may belong to a member.
    const std::uint8_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
    const auto lesser = [](std::uint8_t x, std::uint8_t y) { return x < y ? x : y; };
    if (stride == 1) {
      for (std::int64_t j = 0; j < keys; ++j) {
        by_some_[j] |= static_cast<std::uint8_t>((a[j] | b[j]) | (c[j] | d[j]));
        by_all_[j] = lesser(by_all_[j], lesser(lesser(a[j], b[j]), lesser(c[j], d[j])));
      }
    } else {
      for (std::int64_t j = 0, at = 0; j < keys; ++j, at += stride) {
        by_some_[j] |= static_cast<std::uint8_t>((a[at] | b[at]) | (c[at] | d[at]));
        by_all_[j] = lesser(by_all_[j], lesser(lesser(a[at], b[at]), lesser(c[at], d[at])));
      }
    }
  }

  /// What is seen of keys [first, last); those past the last key do not count.
  Sees seen(std::int64_t first, std::int64_t last) const {
    // Eight keys at a time, fewer only at the end. Some byte of the word is 0 if subtracting 1 from each sets
    // a top bit that was not set. Copying exactly a panel's bytes would be a loop or a call.
    constexpr std::uint64_t kOnes = 0x0101010101010101u, kTops = 0x8080808080808080u;
    std::uint64_t something = 0, missing = 0;
    std::int64_t j = first;
    for (const std::int64_t end = min_of(last, keys_); j < end;) {
      std::uint64_t some, all;
      std::memcpy(&some, by_some_ + j, sizeof some);
      std::memcpy(&all, by_all_ + j, sizeof all);
      const std::int64_t keys = min_of(end - j, kWord);
      const std::uint64_t others = keys == kWord ? 0 : ~std::uint64_t{0} << (8 * keys);
      all |= others;
      something |= some & ~others;
      missing |= (all - kOnes) & ~all & kTops;
      j += keys;
    }
    return something == 0 ? Sees::nothing : missing != 0 ? Sees::some : Sees::all;
  }

 private:
  static constexpr std::int64_t kWord = 8;                                      // bytes
  std::uint8_t by_some_[kBlockKeys + kWord] = {}, by_all_[kBlockKeys + kWord];  // 0: hidden
  std::int64_t keys_;
};

}  // namespace kumiko::kernels
