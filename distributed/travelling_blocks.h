// SPDX-License-Identifier: Apache-2.0
// Blocks of keys travel from rank to rank, piece by piece, while the block before is computed.
#pragma once

#include <kumiko/attention.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <vector>

#include "distributed/block_plan.h"
#include "distributed/sequence_call.h"
#include "distributed/transport.h"
#include "distributed/workspace.h"

namespace kumiko::distributed {

class TravellingBlocks {
 public:
  /// `algorithm`: ring or broadcast.
  TravellingBlocks(const Context& context, const SequenceParallelArgs& args, Transport& transport,
                   Workspace& workspace, Algorithm algorithm);
  ~TravellingBlocks();
  TravellingBlocks(const TravellingBlocks&) = delete;
  /// Takes all memory and checks the calls. Nothing is sent.
  Status prepare();
  /// The outcome on this rank. Blocks are passed on even if computing failed, because others wait for them.
  Status run();

 private:
  /// What a rank does with a message: from whom it comes, to whom it goes on.
  struct Transfer {
    const Message* message = nullptr;
    int tag = 0;
    int parent = -1;  ///< -1: this rank owns it.
    std::vector<int> children;
    std::vector<MPI_Request> received;  ///< [pieces], if there is a parent.
    std::size_t pieces_here = 0;        ///< All pieces before this one have arrived.
  };
  /// The place of a block in the buffer, and its transfers.
  struct Lane {
    std::byte* pages = nullptr;
    std::vector<Transfer> transfers;
    std::vector<MPI_Request> sent;
    std::size_t queued = 0;  ///< Messages that wait in outbox_.
    bool is_here = false;
  };
  struct Outgoing {
    Lane* lane;
    const Message* message;
    std::size_t piece;
    int tag, to;
  };
  /// A piece of a block: bytes of its lane.
  struct Piece {
    std::int64_t begin;
    int size;
  };

  /// Groups of KV heads, [begin, end).
  struct Groups {
    std::size_t begin, end;
  };

  void start(std::size_t step);
  std::size_t piece_count(const Message& message) const;
  Piece piece_of(const Message& message, std::size_t piece) const;
  void forward(Lane& lane, const Transfer& transfer, std::size_t piece);
  void progress(Lane& lane);
  bool is_sent(Lane& lane);
  bool computes(std::size_t step) const;
  void start_what_fits();
  void send_next();
  std::size_t leaving();
  bool compute_what_is_here(bool in_part);
  bool compute_ahead();
  void compute(const Groups& groups, std::size_t first, std::size_t last);
  void merge_ahead(const Groups& groups, std::size_t first, std::size_t last);
  std::size_t groups_here(std::size_t step);
  HeadRange heads_of(const Groups& groups) const;
  std::size_t computing() const { return next_.back(); }
  bool is_ahead(std::size_t step) const { return std::ranges::find(ahead_, step) != ahead_.end(); }
  Lane& lane_of(std::size_t step) { return lanes_[step % lanes_.size()]; }

  const Context& context_;
  Transport& transport_;
  const Algorithm algorithm_;
  const BlockPlan plan_;
  const PageLayout layout_;
  SequenceCall call_;
  Workspace& workspace_;
  float* states_ = nullptr;
  std::vector<Lane> lanes_;
  std::deque<Outgoing> outbox_;
  std::size_t most_messages_ = 1;  ///< Of a step.
  // The first step that this rank computes, and the last one, plus 1; 0: none.
  std::size_t first_step_ = 0, last_step_ = 0;
  // All steps before started_ have begun their transfers, all before done_ are computed.
  std::size_t started_ = 0, done_ = 0;
  std::int64_t group_heads_ = 1;  ///< KV heads of a group.
  /// [groups] The next step of each group of heads: all before it are computed or being computed. No group is
  /// behind the group after it.
  std::vector<std::size_t> next_;
  std::size_t pieces_moved_ = 0;  ///< Pieces received, and pieces whose sending has ended.
  /// Steps beyond next_ whose states are computed, each at its place of ahead_states_; kNone: free.
  static constexpr std::size_t kNone = static_cast<std::size_t>(-1);
  std::vector<std::size_t> ahead_;
  std::vector<float*> ahead_states_;
  std::chrono::steady_clock::time_point waiting_since_{};
  bool is_waiting_ = false, has_waited_ = false;
  Status computed_;
  Worker* worker_ = nullptr;
};

}  // namespace kumiko::distributed
