// SPDX-License-Identifier: Apache-2.0
#include "distributed/block_pipeline.h"

#include <algorithm>
#include <cmath>

namespace kumiko::distributed {
namespace {

double pieces_of(double bytes) {
  return std::max(std::ceil(bytes / static_cast<double>(kPieceBytes)), 1.0);
}

}  // namespace

BlockPipeline::BlockPipeline(int ranks, std::int64_t blocks_in_flight, const Link& link, Algorithm algorithm)
    : link_(link),
      algorithm_(algorithm),
      buffers_(static_cast<std::size_t>(blocks_in_flight)),
      ranks_(static_cast<std::size_t>(ranks)),
      released_(ranks_.size() * buffers_) {}

// The block goes from each member to the next.
void BlockPipeline::pass_along(const std::vector<int>& members, double bytes) {
  const double pieces = pieces_of(bytes), transfer = bytes / link_.bandwidth, piece = transfer / pieces,
               busy = std::max(transfer, pieces * link_.message_seconds),
               all = std::max(transfer, (pieces - 1) * link_.message_seconds + piece),
               hop = link_.latency_seconds + piece;
  for (std::size_t i = 1; i < members.size(); ++i) {
    RankState &from = at(members[i - 1]), &to = at(members[i]);
    const double start = std::max({first_[i - 1], from.out_free, to.in_free, buffer(members[i])});
    from.out_free = to.in_free = passed_[i - 1] = std::max(start + busy, arrived_[i - 1] + piece);
    first_[i] = start + hop;
    arrived_[i] = std::max(start + link_.latency_seconds + all, arrived_[i - 1] + hop);
    transfer_[i - 1] = transfer_[i] = transfer;
    from.sent += bytes;
  }
}

// Member i sends to 2i + 1 and 2i + 2, to both at once, each at half the rate.
void BlockPipeline::broadcast(const std::vector<int>& members, double bytes) {
  const std::size_t count = members.size();
  const double pieces = pieces_of(bytes);
  for (std::size_t i = 0; 2 * i + 1 < count; ++i) {
    RankState& from = at(members[i]);
    const std::size_t end = std::min(2 * i + 3, count);
    const auto children = static_cast<double>(end - (2 * i + 1));
    const double transfer = children * bytes / link_.bandwidth, piece = transfer / pieces,
                 gap = children * link_.message_seconds, busy = std::max(transfer, pieces * gap),
                 all = std::max(transfer, (pieces - 1) * gap + piece), hop = link_.latency_seconds + piece;
    double done = 0;
    for (std::size_t child = 2 * i + 1; child < end; ++child) {
      RankState& to = at(members[child]);
      const double start = std::max({first_[i], from.out_free, to.in_free, buffer(members[child])});
      first_[child] = start + hop;
      arrived_[child] = std::max(start + link_.latency_seconds + all, arrived_[i] + hop);
      to.in_free = std::max(start + busy, arrived_[i] + piece);
      transfer_[child] = std::max(transfer_[child], transfer);
      done = std::max(done, to.in_free);
      from.sent += bytes;
    }
    from.out_free = passed_[i] = done;
    transfer_[i] = std::max(transfer_[i], transfer);
  }
}

void BlockPipeline::add(const std::vector<int>& members, const std::vector<double>& seconds, double bytes) {
  for (std::vector<double>* times : {&first_, &arrived_, &passed_, &transfer_})
    times->assign(members.size(), 0.0);
  if (algorithm_ == Algorithm::broadcast) {
    broadcast(members, bytes);
  } else {
    pass_along(members, bytes);
  }
  for (std::size_t i = 0; i < members.size(); ++i) {
    RankState& rank = at(members[i]);
    // While the part of the transfer that does not overlap lasts, the rank does not compute.
    const double work = seconds[i] + (1 - link_.overlap) * transfer_[i];
    rank.computed = std::max(rank.computed, arrived_[i]) + work;
    if (i == 0) continue;  // The owner's block lies in its own memory.
    buffer(members[i]) = std::max(rank.computed, passed_[i]);
    ++rank.received;
  }
}

double BlockPipeline::end() const {
  double last = 0;
  for (const RankState& rank : ranks_) last = std::max(last, rank.computed);
  return last;
}

double BlockPipeline::most_sent() const {
  double most = 0;
  for (const RankState& rank : ranks_) most = std::max(most, rank.sent);
  return most;
}

}  // namespace kumiko::distributed
