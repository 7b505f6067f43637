// SPDX-License-Identifier: Apache-2.0
#include "distributed/travelling_blocks.h"

#include <algorithm>
#include <string>
#include <utility>

namespace kumiko::distributed {
namespace {

/// Bytes of a piece of a block. On a link on which sending takes as long as computing, the heads in the last
/// piece are computed after all else: with pieces of 1 MiB these are two heads of 128 in f32, 13 ms after the
/// last pair of pieces of a prefill of 330 ms, and half of that with pieces of this size (Zen 5, two ranks).
constexpr std::int64_t kMessageBytes = 1 << 19;
constexpr std::size_t kTags = 32767;  // every MPI has these, and one more for notices
/// The pause between two looks at MPI while this rank computes: after a look at which a piece came or left a
/// quarter of the pause before, after any other twice that pause. A look and its two thread switches take 25
/// us of a core that computes: every 100 us they were 12 % of a prefill of 8192 tokens over a link of 100
/// MB/s, which brings a MiB every 10 ms (Zen 5, two ranks). With pauses of at most 1 ms the rank that only
/// computes was done 5 ms later than with 1.5 ms; with 2.5 ms the link was idle for as long.
constexpr std::chrono::microseconds kShortestPause{100}, kLongestPause{1500};
/// States computed ahead: of at most kMostAhead blocks, and kAheadBytes bytes in all.
constexpr std::size_t kMostAhead = 3, kAheadBytes = 64 << 20;
/// How long a rank waits for the next block before it computes a later one: about as long as merging takes.
constexpr std::chrono::milliseconds kPatience{1};

}  // namespace

TravellingBlocks::TravellingBlocks(const Context& context, const SequenceParallelArgs& args,
                                   Transport& transport, Workspace& workspace, Algorithm algorithm)
    : context_(context),
      transport_(transport),
      algorithm_(algorithm),
      plan_(work_of(args), reach_of(args.local), transport.size()),
      layout_(args.local),
      call_(args, plan_, transport.rank()),
      workspace_(workspace) {}

TravellingBlocks::~TravellingBlocks() {
  if (worker_) worker_->wait();
  // Transfers that never end still point to it.
  if (transport_.failed()) transport_.keep(workspace_.blocks);
}

Status TravellingBlocks::prepare() {
  const std::vector<Step>& steps = plan_.steps();
  const auto lane = static_cast<std::size_t>(call_.lane_pages() * layout_.size());
  for (const Step& step : steps) most_messages_ = std::max(most_messages_, step.messages.size());
  if (most_messages_ > kTags / 2)
    return {Code::unsupported, "a block has messages of " + std::to_string(most_messages_) +
                                   " ranks; expected at most 16383, longer sequences or fewer of them"};
  lanes_.resize(std::clamp<std::size_t>(
      steps.size(), 1,
      std::min(static_cast<std::size_t>(plan_.work().blocks_in_flight), kTags / most_messages_)));
  std::byte* const base = workspace_.blocks->reserve(lanes_.size() * lane);
  for (std::size_t i = 0; i < lanes_.size(); ++i) lanes_[i].pages = base + i * lane;
  if (Status s = call_.prepare(context_, base, static_cast<std::int64_t>(lanes_.size())); !s.ok()) return s;
  first_step_ = steps.size();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (!steps[i].computes[static_cast<std::size_t>(transport_.rank())]) continue;
    first_step_ = std::min(first_step_, i);
    last_step_ = i + 1;
  }
  const std::int64_t heads = std::max<std::int64_t>(layout_.kv_heads, 1);
  group_heads_ =
      std::clamp<std::int64_t>(kMessageBytes / std::max<std::int64_t>(layout_.head_size(), 1), 1, heads);
  next_.assign(static_cast<std::size_t>((heads + group_heads_ - 1) / group_heads_), 0);
  // A state computed ahead is that of one split, which does not depend on the keys before it.
  const auto floats = static_cast<std::size_t>(call_.state_floats());
  const bool has_waits = transport_.size() > 1 && floats > 0 && plan_.work().block_keys == kKeysPerSplit;
  ahead_.assign(has_waits ? std::min(kMostAhead, kAheadBytes / sizeof(float) / floats) : 0, kNone);
  states_ = reinterpret_cast<float*>(workspace_.states.reserve((ahead_.size() + 1) * floats * sizeof(float)));
  for (std::size_t i = 0; i < ahead_.size(); ++i) ahead_states_.push_back(states_ + (i + 1) * floats);
  if (!workspace_.worker) workspace_.worker.emplace();
  worker_ = &*workspace_.worker;
  return {};
}

/// Posts what this rank receives of a block, and sends what it owns.
void TravellingBlocks::start(std::size_t number) {
  Lane& lane = lane_of(number);
  lane.transfers.clear();
  lane.sent.clear();
  lane.is_here = false;
  const Step& step = plan_.steps()[number];
  for (std::size_t m = 0; m < step.messages.size(); ++m) {
    const Message& message = step.messages[m];
    const auto me = std::find(message.members.begin(), message.members.end(), transport_.rank());
    if (me == message.members.end()) continue;
    const std::size_t i = static_cast<std::size_t>(me - message.members.begin()),
                      count = message.members.size(), degree = algorithm_ == Algorithm::ring ? 1 : 2;
    Transfer transfer;
    transfer.message = &message;
    // A lane has one block at a time, so that no two messages under way have the same tag.
    transfer.tag = static_cast<int>(number % lanes_.size() * most_messages_ + m);
    if (i > 0) transfer.parent = message.members[(i - 1) / degree];
    for (std::size_t child = degree * i + 1; child <= degree * i + degree && child < count; ++child)
      transfer.children.push_back(message.members[child]);
    lane.transfers.push_back(std::move(transfer));
  }
  for (Transfer& transfer : lane.transfers) {
    if (transfer.parent < 0) continue;
    // Messages of one tag between two ranks come in the order in which they leave.
    transfer.received.assign(piece_count(*transfer.message), MPI_REQUEST_NULL);
    for (std::size_t piece = 0; piece < transfer.received.size(); ++piece) {
      const auto [begin, size] = piece_of(*transfer.message, piece);
      transport_.receive(lane.pages + begin, size, MPI_BYTE, transfer.parent, transfer.tag,
                         &transfer.received[piece]);
    }
  }
  for (Transfer& transfer : lane.transfers) {
    if (transfer.parent >= 0) continue;
    const bool is_used = step.computes[static_cast<std::size_t>(transport_.rank())];
    if (is_used || !transfer.children.empty()) call_.pack(*transfer.message, lane.pages);
    transfer.pieces_here = piece_count(*transfer.message);
    for (std::size_t piece = 0; piece < transfer.pieces_here; ++piece) forward(lane, transfer, piece);
  }
}

std::size_t TravellingBlocks::piece_count(const Message& message) const {
  const std::int64_t bytes = std::ssize(message.splits) * layout_.size();
  return static_cast<std::size_t>((bytes + kMessageBytes - 1) / kMessageBytes);
}

TravellingBlocks::Piece TravellingBlocks::piece_of(const Message& message, std::size_t piece) const {
  const std::int64_t before = static_cast<std::int64_t>(piece) * kMessageBytes,
                     bytes = std::ssize(message.splits) * layout_.size();
  return {message.first_page * layout_.size() + before,
          static_cast<int>(std::min(bytes - before, kMessageBytes))};
}

void TravellingBlocks::forward(Lane& lane, const Transfer& transfer, std::size_t piece) {
  for (const int child : transfer.children) {
    outbox_.push_back({&lane, transfer.message, piece, transfer.tag, child});
    ++lane.queued;
  }
}

/// At most two pieces are being sent at a time. With more, pieces that are needed later take bandwidth from
/// earlier ones, and the messages by which MPI lets the other side begin wait behind them. Over a link on
/// which sending takes as long as computing, a prefill took 1.12 times as long as either with two, 1.11
/// to 1.29 with four, 1.15 to 1.57 with eight.
void TravellingBlocks::send_next() {
  constexpr std::size_t kLeaving = 2;
  while (!outbox_.empty() && leaving() < kLeaving && !transport_.failed()) {
    const Outgoing next = outbox_.front();
    outbox_.pop_front();
    --next.lane->queued;
    next.lane->sent.push_back(MPI_REQUEST_NULL);
    const auto [begin, size] = piece_of(*next.message, next.piece);
    transport_.send(next.lane->pages + begin, size, MPI_BYTE, next.to, next.tag, &next.lane->sent.back());
  }
}

std::size_t TravellingBlocks::leaving() {
  std::size_t count = 0;
  for (Lane& lane : lanes_) {
    pieces_moved_ +=
        std::erase_if(lane.sent, [&](MPI_Request& request) { return transport_.test(&request); });
    count += lane.sent.size();
  }
  return count;
}

/// Passes on what has come.
void TravellingBlocks::progress(Lane& lane) {
  bool all = true;
  for (Transfer& transfer : lane.transfers) {
    std::size_t& here = transfer.pieces_here;
    while (here < transfer.received.size() && transport_.test(&transfer.received[here]) &&
           !transport_.failed()) {
      forward(lane, transfer, here++);
      ++pieces_moved_;
    }
    all = all && here >= transfer.received.size();
  }
  lane.is_here = all;
}

bool TravellingBlocks::is_sent(Lane& lane) {
  bool all = lane.queued == 0;
  for (MPI_Request& request : lane.sent) all = transport_.test(&request) && all;
  return all;
}

bool TravellingBlocks::computes(std::size_t step) const {
  return call_.has_rows() && plan_.steps()[step].computes[static_cast<std::size_t>(transport_.rank())];
}

/// A block takes the lane of one that is computed and sent.
void TravellingBlocks::start_what_fits() {
  while (started_ < plan_.steps().size() && started_ < done_ + lanes_.size() && !transport_.failed()) {
    if (started_ >= lanes_.size() && !is_sent(lane_of(started_))) return;
    start(started_++);
  }
}

HeadRange TravellingBlocks::heads_of(const Groups& groups) const {
  return {static_cast<std::int64_t>(groups.begin) * group_heads_,
          std::min(static_cast<std::int64_t>(groups.end) * group_heads_, layout_.kv_heads)};
}

/// How many groups' keys and values of a step have arrived: pieces come in the order of heads.
std::size_t TravellingBlocks::groups_here(std::size_t step) {
  if (step >= started_) return 0;
  std::size_t groups = next_.size();
  for (const Transfer& transfer : lane_of(step).transfers) {
    if (transfer.parent < 0 || transfer.pieces_here == transfer.received.size()) continue;
    const std::int64_t before = (std::ssize(transfer.message->splits) - 1) * layout_.size(),
                       heads = (static_cast<std::int64_t>(transfer.pieces_here) * kMessageBytes - before) /
                               layout_.head_size();
    groups = std::min(groups, static_cast<std::size_t>(std::max<std::int64_t>(heads, 0) / group_heads_));
  }
  return groups;
}

/// Computes blocks [first, last) on the worker's thread, while this thread makes MPI progress.
void TravellingBlocks::compute(const Groups& groups, std::size_t first, std::size_t last) {
  worker_->start([this, heads = heads_of(groups), first, last] {
    if (!computed_.ok()) return;
    const std::span<const Step> steps(plan_.steps().data() + first, last - first);
    computed_ = call_.run(context_, steps, first, heads, states_, first <= first_step_, last >= last_step_);
  });
}

/// Computes what has arrived. Consecutive blocks are computed together: each call reads and writes the rows'
/// states, which takes 5 ms of the 40 ms of 1024 keys (8 heads of 8192 rows on two ranks, Zen 5). Half of the
/// lanes stay free for what comes meanwhile. false: there is nothing to compute yet.
///
/// `in_part`: also the heads that have arrived of a block that is still on its way. The last groups of heads,
/// which are then behind, are computed first and catch up with those before them.
bool TravellingBlocks::compute_what_is_here(bool in_part) {
  const std::size_t most = std::max<std::size_t>(lanes_.size() / 2, 1);
  for (std::size_t& next : next_) {
    while (next < started_ && !computes(next) && lane_of(next).is_here) ++next;
  }
  done_ = computing();
  for (std::size_t& step : ahead_) {
    if (step < done_) step = kNone;
  }
  for (Groups groups{0, next_.size()}; groups.end > 0; groups.end = groups.begin) {
    const std::size_t first = next_[groups.end - 1];
    groups.begin = static_cast<std::size_t>(std::ranges::find(next_, first) - next_.begin());
    const std::size_t end = groups.begin > 0 ? next_[groups.begin - 1] : started_;
    std::size_t last = first;
    if (first >= started_) continue;
    if (is_ahead(first)) {
      while (last < end && is_ahead(last)) ++last;
      merge_ahead(groups, first, last);
    } else {
      while (last < end && last - first < most && lane_of(last).is_here && computes(last) && !is_ahead(last))
        ++last;
      if (last == first && in_part && computes(first)) {
        groups.end = std::min(groups.end, groups_here(first));
        if (groups.begin < groups.end) ++last;
      }
      if (last == first) continue;
      compute(groups, first, last);
    }
    for (std::size_t i = groups.begin; i < groups.end; ++i) next_[i] = last;
    return true;
  }
  return false;
}

/// While the next block is on its way: computes the states of the first later block that has arrived, to be
/// merged when it is its turn. Over a link on which sending takes as long as computing, two ranks with zigzag
/// rows would otherwise wait for an eighth of the time at the first block, and rank 0 would have an eighth of
/// its work left after the last one.
bool TravellingBlocks::compute_ahead() {
  const auto place = std::ranges::find(ahead_, kNone);
  if (place == ahead_.end()) return false;
  for (std::size_t step = next_.front() + 1; step < started_; ++step) {
    if (!lane_of(step).is_here || !computes(step) || is_ahead(step)) continue;
    *place = step;
    worker_->start([this, step, states = ahead_states_[static_cast<std::size_t>(place - ahead_.begin())]] {
      if (computed_.ok())
        computed_ = call_.run(context_, {&plan_.steps()[step], 1}, step, {}, states, true, false);
    });
    return true;
  }
  return false;
}

/// Merges the states of steps [first, last), all computed ahead.
void TravellingBlocks::merge_ahead(const Groups& groups, std::size_t first, std::size_t last) {
  std::vector<const float*> next;
  for (std::size_t step = first; step < last; ++step) {
    const auto place = std::ranges::find(ahead_, step);
    next.push_back(ahead_states_[static_cast<std::size_t>(place - ahead_.begin())]);
  }
  worker_->start([this, next, heads = heads_of(groups), first, last] {
    if (computed_.ok())
      computed_ = call_.merge(context_, heads, states_, next, first <= first_step_, last >= last_step_);
  });
}

Status TravellingBlocks::run() {
  const std::size_t steps = plan_.steps().size();
  std::chrono::microseconds pause = kShortestPause;
  while (done_ < steps && !transport_.failed()) {
    if (!worker_->is_busy()) {
      done_ = computing();
      const auto now = std::chrono::steady_clock::now();
      const bool was_waiting = std::exchange(is_waiting_, !compute_what_is_here(has_waited_));
      if (is_waiting_ && !was_waiting) waiting_since_ = now;
      if (is_waiting_ && done_ < steps) {
        has_waited_ = has_waited_ || now - waiting_since_ >= kPatience;
        if (!has_waited_ || !(compute_what_is_here(true) || compute_ahead())) std::this_thread::yield();
      }
    }
    start_what_fits();
    send_next();
    const bool has_sent = leaving() == 0;  // of blocks before done_, too
    const std::size_t moved_before = pieces_moved_;
    bool are_here = started_ == steps;
    for (std::size_t i = done_; i < started_; ++i) {
      Lane& lane = lane_of(i);
      if (!lane.is_here) progress(lane);
      are_here = are_here && lane.is_here;
    }
    const bool is_idle = has_sent && outbox_.empty() && are_here;
    pause = pieces_moved_ > moved_before ? std::max(pause / 4, kShortestPause)
                                         : std::min(2 * pause, kLongestPause);
    if (worker_->is_busy()) is_idle ? worker_->wait() : worker_->wait(pause);
  }
  while ((!outbox_.empty() || leaving() > 0) && !transport_.failed()) {
    send_next();
    std::this_thread::yield();
  }
  if (transport_.failed()) return transport_.status();
  if (call_.has_rows() && last_step_ == 0) {
    compute({0, next_.size()}, 0, 0);
    worker_->wait();
  }
  return computed_;
}

}  // namespace kumiko::distributed
