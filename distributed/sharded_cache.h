// SPDX-License-Identifier: Apache-2.0
// Queries that every rank has, over keys that are spread over the ranks: the states of splits are sent to the
// rank that merges them, the results to all.
#pragma once

#include <kumiko/attention.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "distributed/transport.h"

namespace kumiko::distributed {

class ShardedCache {
 public:
  ShardedCache(const Context& context, const AttentionArgs& args, Transport& transport);
  ~ShardedCache();
  ShardedCache(const ShardedCache&) = delete;
  std::int64_t sequences() const { return sequences_; }
  /// Takes all memory and checks the call. Nothing is sent.
  Status prepare();
  /// Computes the states of this rank's splits. Nothing is sent, and no output written.
  Status compute();
  /// Sends the states, merges them, and writes the outputs if all ranks have succeeded. Returns the same
  /// status on all ranks.
  Status merge_all(const Status& computed);

 private:
  std::int64_t rows_of(std::int64_t b) const;
  std::int64_t splits_of(std::int64_t b) const;
  std::int64_t own_splits(std::int64_t b, std::int64_t rank) const;
  /// Units (sequence, KV head) that a rank merges.
  std::int64_t first_unit(int rank) const { return unit_begin_[static_cast<std::size_t>(rank)]; }
  void share_units();
  Status count_rows();
  Status merge();
  template <class Visit>
  void visit_results(int rank, Visit visit) const;
  void pack_results(const Status& mine);
  void unpack_results() const;

  const Context& context_;
  const AttentionArgs& args_;
  Transport& transport_;
  const std::int64_t sequences_, kv_heads_, group_, size_;  ///< size_: floats of a state
  std::vector<std::int64_t> unit_begin_;                    ///< [ranks + 1]
  std::vector<int> sent_, received_;                        ///< [ranks] states
  std::vector<int> result_bytes_;                           ///< [ranks]
  struct Memory {
    std::vector<float> states, received;
    std::vector<std::byte> result, results;
  };
  std::shared_ptr<Memory> memory_ = std::make_shared<Memory>();
  // What the merge writes; the caller's outputs are written when all ranks have succeeded.
  std::vector<std::byte> out_;
  std::vector<float> lse_, row_max_;
  AttentionArgs merged_;
};

}  // namespace kumiko::distributed
