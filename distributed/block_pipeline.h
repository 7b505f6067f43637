// SPDX-License-Identifier: Apache-2.0
// Blocks of keys that travel from rank to rank while the blocks before them are computed.
#pragma once

#include <kumiko/cost_model.h>

#include <cstdint>
#include <vector>

namespace kumiko::distributed {

/// Bytes of a piece: a block is passed on in pieces, each as soon as it has arrived. The pieces that are
/// really sent are half as long (travelling_blocks.cpp). They are longer than those of MPI's own broadcasts,
/// because a rank that computes looks at MPI every 100 us where pieces come fast, and a link carries 1 MB
/// meanwhile.
inline constexpr std::int64_t kPieceBytes = 1 << 20;

/// When each rank has received and computed each block. Blocks are added in the order in which they are
/// computed. All times are sums and maxima of the costs given, so that a lower cost never makes anything
/// later.
class BlockPipeline {
 public:
  BlockPipeline(int ranks, std::int64_t blocks_in_flight, const Link& link, Algorithm algorithm);

  /// `members`: the owner first, then the ranks that need the block, in the order in which it is passed on.
  /// `seconds`: of computing it, one for each member (0 for an owner that does not need it).
  void add(const std::vector<int>& members, const std::vector<double>& seconds, double bytes);
  /// When the last rank is done.
  double end() const;
  /// Bytes sent by the rank that sent most.
  double most_sent() const;

 private:
  struct RankState {
    double computed = 0;               ///< Its last block is computed.
    double in_free = 0, out_free = 0;  ///< The link towards it, and from it.
    double sent = 0;
    std::size_t received = 0;  ///< Blocks so far.
  };
  void pass_along(const std::vector<int>& members, double bytes);
  void broadcast(const std::vector<int>& members, double bytes);
  double& buffer(int rank) {
    const std::size_t i = static_cast<std::size_t>(rank) * buffers_;
    return released_[i + ranks_[static_cast<std::size_t>(rank)].received % buffers_];
  }
  RankState& at(int rank) { return ranks_[static_cast<std::size_t>(rank)]; }

  const Link link_;
  const Algorithm algorithm_;
  const std::size_t buffers_;
  std::vector<RankState> ranks_;
  std::vector<double> released_;  ///< [ranks][buffers]
  // Of the block being added, for each member: when its first piece and when all of it has arrived, when it
  // has been passed on, and how long its transfer takes.
  std::vector<double> first_, arrived_, passed_, transfer_;
};

}  // namespace kumiko::distributed
