// SPDX-License-Identifier: Apache-2.0
// What all ranks must have alike, and one status for all, before anything moves and at the end.
#pragma once

#include <kumiko/attention.h>

#include <array>
#include <bit>
#include <cstdint>
#include <limits>
#include <utility>

#include "distributed/transport.h"

namespace kumiko::distributed {

/// Names and hashes of what must be the same on all ranks.
class Digest {
 public:
  /// The fields of a valid call of so many sequences. `has_all_rows`: all rows of q and out are on each rank.
  /// `of`: what their names begin with.
  void add(const AttentionArgs& args, std::int64_t sequences, bool has_all_rows, const char* of = "");
  void add(const char* name, const void* data, std::size_t bytes);
  template <class T>
  void add_value(const char* name, const T& value) {
    add(name, &value, sizeof value);
  }
  /// Positive numbers of which Agreement::finish() finds the least.
  std::array<double, 2> least{std::numeric_limits<double>::infinity(),
                              std::numeric_limits<double>::infinity()};

 private:
  friend class Agreement;
  static constexpr std::size_t kMostEntries = 56;
  std::size_t count_ = 0;
  const char* of_ = "";
  std::array<std::pair<const char*, const char*>, kMostEntries> names_{};  ///< In two parts.
  std::array<std::uint64_t, kMostEntries> hashes_{};
};

/// One reduction, which travels from the constructor on and is over with finish(); where a rank has an error
/// one broadcast more. Takes no memory but for the text of an error.
class Agreement {
 public:
  Agreement(Transport& transport, const Digest& digest, const Status& mine);
  Agreement(const Agreement&) = delete;
  /// `mine` if it is the same everywhere, else the error of the lowest rank that has one, or one that names
  /// the first entry of the digests that differs. The same on all ranks. Once; no other reduction before.
  Status finish();
  /// Of all ranks, after finish() without error.
  double least(std::size_t i) const { return std::bit_cast<double>(~words_[kLeast + i]); }

 private:
  static constexpr std::size_t kLeast = 2 * Digest::kMostEntries, kWords = kLeast + 3;
  Transport& transport_;
  const Digest& digest_;
  const Status& mine_;
  std::array<std::uint64_t, kWords> words_{};
  MPI_Request request_ = MPI_REQUEST_NULL;
};

inline Status agree(Transport& transport, const Digest& digest, const Status& mine) {
  return Agreement(transport, digest, mine).finish();
}

}  // namespace kumiko::distributed
