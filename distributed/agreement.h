// SPDX-License-Identifier: Apache-2.0
// Checks what must be the same on all ranks, and gives all ranks one status: before anything is sent, and at
// the end.
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
  /// The fields of a valid call of `sequences` sequences. `has_all_rows`: all rows of q and out are on each
  /// rank. `of`: the prefix of the fields' names.
  void add(const AttentionArgs& args, std::int64_t sequences, bool has_all_rows, const char* of = "");
  void add(const char* name, const void* data, std::size_t bytes);
  template <class T>
  void add_value(const char* name, const T& value) {
    add(name, &value, sizeof value);
  }
  /// Positive numbers of which Agreement::finish() finds the minimum over all ranks.
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

/// One reduction, which the constructor starts and finish() completes, and one more broadcast if a rank has
/// an error. Allocates nothing but the text of an error.
class Agreement {
 public:
  Agreement(Transport& transport, const Digest& digest, const Status& mine);
  Agreement(const Agreement&) = delete;
  /// Ok if no rank has an error and the digests are the same. Otherwise the error of the lowest rank that has
  /// one, or one that names the first entry of the digests that differs. The same on all ranks. To be called
  /// once, before any other reduction.
  Status finish();
  /// The minimum of Digest::least[i] over all ranks, after finish() without error.
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
