// SPDX-License-Identifier: Apache-2.0
// The order in which a block of decode reads its rows, so that they can be fetched ahead in that order: the
// keys, the values, and the keys of the next block. Several heads read a part of a block each, in turn.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/pipelines/decode.h"
#include "kernels/pipelines/decode_rows.h"

namespace kumiko::kernels {

/// Keys of a block that a head reads before the next head does; not less than DecodeKernel::score_keys.
/// Shares of the limit, Zen 4, one thread, 8 heads of D = 128: bf16 pairs 32 keys 0.60, 64 keys 0.70, 128
/// keys 0.62; f32 0.66, 0.66, 0.66, AVX2 0.57, 0.59, 0.59.
inline constexpr std::int64_t kTurnKeys = 64;

/// The same for these kernels. Products of f16 take a whole block, with which their chains end.
inline std::int64_t turn_keys(const KernelSet& kernels) {
  return kernels.has_block_chains() ? kBlockKeys : kTurnKeys;
}

class ReadOrder {
 public:
  static constexpr std::int64_t kMostParts = kBlockKeys / kTurnKeys;

  /// Takes its memory from `carver`. `heads`: at most so many.
  ReadOrder(Carver& carver, std::int64_t heads);

  /// The heads of a run, all of one sequence.
  void begin(const KernelSet& kernels, std::span<const DecodeRows* const> heads);

  /// Keys of a part of a block: all of them if there is one head, or if a block must be taken at once.
  std::int64_t part_keys() const { return part_keys_; }
  const FetchDistances& fetch() const { return fetch_; }

  /// Lists the rows of `block`, and then of `next`. DecodeRows::block() must have been called for `block`.
  void set(const KeyRange& block, const KeyRange& next);
  /// What is read from this part of a head's keys or values on.
  RowList from_keys(std::int64_t part, std::size_t head) const { return {keys_[part][head], first_value_}; }
  RowList from_values(std::int64_t part, std::size_t head) const {
    return {values_[part][head], first_next_};
  }

 private:
  void set_of_copies(const KeyRange& block);
  RowRange* list(bool is_keys, const KeyRange& keys, std::size_t head, RowRange* to) const;
  void set_l2_ahead(RowRange* begin, RowRange* end) const;

  const KernelSet* kernels_ = nullptr;
  std::span<const DecodeRows* const> heads_;
  FetchDistances fetch_;
  std::int64_t part_keys_ = kBlockKeys;
  std::int64_t range_rows_ = kNoEnd;  // the most rows of a range
  std::int64_t l2_ranges_ = 0;        // from a range to the one that is fetched into L2 with it
  RowRange* ranges_;
  const RowRange *keys_[kMostParts][kMaxDecodeHeads], *values_[kMostParts][kMaxDecodeHeads];
  const RowRange *first_value_ = nullptr, *first_next_ = nullptr;
};

}  // namespace kumiko::kernels
