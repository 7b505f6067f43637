// SPDX-License-Identifier: Apache-2.0
// Where the tokens of a batch lie: packed for the linear layers, in groups of like length for attention.
//
// A linear layer works on token rows one by one, so the texts lie one after another without padding:
//
//   packed   [a0 a1 a2 | b0 b1 b2 b3 | c0 ... c18 | d0 ... d21]      rows = tokens
//
// An attention call takes one q_len for all its texts. Keys past a text's end are never read (seqused_k);
// query rows past it would still be computed. So the texts are sorted by length and cut into groups whose
// lengths round up to the same multiple of 8: query rows are the lanes of a vector, 8 with AVX2 and 16 with
// AVX-512, so filling up lanes costs no instruction. Up to 8 rows Kumiko computes row by row, and all texts
// of a group have the same length.
//
//   group 0  [a0 a1 a2]                              q_len  3, seqused_k 3
//   group 1  [b0 b1 b2 b3]                           q_len  4, seqused_k 4
//   group 2  [c0 ... c18 -- -- -- | d0 ... d21]      q_len 22, seqused_k 19 22
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace inference {

constexpr std::int64_t kGroupStep = 8;

/// Texts of equal bound share a group: rows past a text's end then cost no instruction.
constexpr std::int64_t group_bound(std::int64_t length) {
  return length <= kGroupStep ? length : (length + kGroupStep - 1) / kGroupStep * kGroupStep;
}

struct BatchLayout {
  struct Sequence {
    std::int64_t text = 0;        ///< index in the caller's order
    std::int64_t length = 0;      ///< tokens
    std::int64_t packed_row = 0;  ///< first row in the packed layout
    std::int64_t padded_row = 0;  ///< first row in the grouped layout
  };
  struct Group {
    std::int64_t first = 0;             ///< first entry in `sequences`
    std::int64_t q_len = 0;             ///< longest text of the group
    std::int64_t padded_row = 0;        ///< first row in the grouped layout
    std::vector<std::int32_t> lengths;  ///< seqused_k
  };
  std::vector<Sequence> sequences;  ///< ascending length
  std::vector<Group> groups;
  std::int64_t tokens = 0;       ///< rows of the packed layout
  std::int64_t padded_rows = 0;  ///< rows of the grouped layout

  /// `lengths`: tokens of each text, all above 0.
  static BatchLayout make(std::span<const std::int64_t> lengths);
};

}  // namespace inference
