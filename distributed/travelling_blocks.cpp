// SPDX-License-Identifier: Apache-2.0
#include "distributed/travelling_blocks.h"

#include <algorithm>
#include <limits>
#include <string>

namespace kumiko::distributed {
namespace {

constexpr int kTags = 16384;  // of messages in two blocks; every MPI has 32768
/// Between two looks at MPI while this rank computes: a look takes about 1 us of a core that computes.
constexpr std::chrono::microseconds kBetweenLooks{100};

}  // namespace

TravellingBlocks::TravellingBlocks(const Context& context, const SequenceParallelArgs& args,
                                   Transport& transport, Workspace& workspace, Algorithm algorithm)
    : context_(context),
      args_(args),
      transport_(transport),
      algorithm_(algorithm),
      plan_(work_of(args), reach_of(args.local), transport.size()),
      layout_(args.local),
      call_(args, plan_, transport.rank()),
      workspace_(workspace) {}

Status TravellingBlocks::prepare() {
  if (layout_.size() > std::numeric_limits<int>::max())
    return {Code::unsupported, "512 keys and values take " + std::to_string(layout_.size()) +
                                   " bytes; expected at most 2^31 - 1, fewer heads or smaller dims"};
  const auto lane = static_cast<std::size_t>(std::max<std::int64_t>(plan_.most_pages(), 1) * layout_.size());
  const std::size_t lanes = plan_.steps().size() > 1 ? 2 : 1;
  std::byte* const base = workspace_.blocks->reserve(lanes * lane);
  lanes_[0].pages = base;
  lanes_[1].pages = base + (lanes - 1) * lane;
  if (Status s = call_.prepare(context_, base); !s.ok()) return s;
  for (std::size_t i = 0; i < plan_.steps().size(); ++i) {
    if (plan_.steps()[i].computes[static_cast<std::size_t>(transport_.rank())]) last_step_ = i + 1;
  }
  const auto state_bytes = static_cast<std::size_t>(call_.state_floats()) * sizeof(float);
  states_ = reinterpret_cast<float*>(workspace_.states.reserve(state_bytes));
  if (!workspace_.worker) workspace_.worker.emplace();
  worker_ = &*workspace_.worker;
  return {};
}

/// Posts what this rank receives of a block, and sends what it owns.
void TravellingBlocks::start(std::size_t number) {
  Lane& lane = lane_of(number);
  lane.transfers.clear();
  lane.sent.clear();
  if (number >= plan_.steps().size()) return;
  const Step& step = plan_.steps()[number];
  for (std::size_t m = 0; m < step.messages.size(); ++m) {
    const Message& message = step.messages[m];
    const auto me = std::find(message.members.begin(), message.members.end(), transport_.rank());
    if (me == message.members.end()) continue;
    const std::size_t i = static_cast<std::size_t>(me - message.members.begin()),
                      count = message.members.size(), degree = algorithm_ == Algorithm::ring ? 1 : 2;
    Transfer transfer;
    transfer.message = &message;
    transfer.tag = static_cast<int>((number * static_cast<std::size_t>(plan_.ranks()) + m) % kTags);
    if (i > 0) transfer.parent = message.members[(i - 1) / degree];
    for (std::size_t child = degree * i + 1; child <= degree * i + degree && child < count; ++child)
      transfer.children.push_back(message.members[child]);
    lane.transfers.push_back(std::move(transfer));
  }
  for (Transfer& transfer : lane.transfers) {
    if (transfer.parent < 0) continue;
    transport_.receive(lane.pages + transfer.message->first_page * layout_.size(),
                       static_cast<int>(transfer.message->splits.size()), page_, transfer.parent,
                       transfer.tag, &transfer.received);
  }
  for (Transfer& transfer : lane.transfers) {
    if (transfer.parent >= 0) continue;
    const bool is_used = step.computes[static_cast<std::size_t>(transport_.rank())];
    if (is_used || !transfer.children.empty()) call_.pack(*transfer.message, lane.pages);
    forward(lane, transfer);
  }
}

void TravellingBlocks::forward(Lane& lane, Transfer& transfer) {
  transfer.is_here = true;
  for (const int child : transfer.children) {
    lane.sent.push_back(MPI_REQUEST_NULL);
    transport_.send(lane.pages + transfer.message->first_page * layout_.size(),
                    static_cast<int>(transfer.message->splits.size()), page_, child, transfer.tag,
                    &lane.sent.back());
  }
}

/// Passes on what has come. Whether all of the block is here.
bool TravellingBlocks::progress(Lane& lane) {
  bool all = true;
  for (Transfer& transfer : lane.transfers) {
    if (transfer.is_here) continue;
    if (transport_.test(&transfer.received) && !transport_.failed())
      forward(lane, transfer);
    else
      all = false;
  }
  return all;
}

bool TravellingBlocks::receive_all(Lane& lane) {
  while (!progress(lane) && !transport_.failed()) std::this_thread::yield();
  return !transport_.failed();
}

bool TravellingBlocks::finish_sending(Lane& lane) {
  return transport_.wait(lane.sent.data(), lane.sent.size());
}

/// On the worker's thread, while this one makes progress.
void TravellingBlocks::compute(std::size_t number) {
  const Step* const step = number < plan_.steps().size() ? &plan_.steps()[number] : nullptr;
  const bool is_last = !step || number + 1 == last_step_;
  worker_->start([this, step, number, is_last, is_first = is_first_] {
    if (!computed_.ok()) return;
    computed_ = call_.run(context_, step, lane_of(number).pages, states_, is_first, is_last);
  });
  is_first_ = false;
}

Status TravellingBlocks::run() {
  const std::vector<Step>& steps = plan_.steps();
  page_ = transport_.make_type(layout_.size());
  start(0);
  for (std::size_t i = 0; i < steps.size() && !transport_.failed(); ++i) {
    if (!receive_all(lane_of(i))) break;
    const bool computes = call_.has_rows() && steps[i].computes[static_cast<std::size_t>(transport_.rank())];
    if (computes) compute(i);
    // The next block takes the buffer of the one before.
    Lane& next = lane_of(i + 1);
    bool is_started = i + 1 == steps.size(), is_complete = is_started;
    const auto go_on = [&] {
      if (!is_started) {
        const auto is_sent = [&](MPI_Request& request) { return transport_.test(&request); };
        if (!std::all_of(next.sent.begin(), next.sent.end(), is_sent)) return;
        start(i + 1);
        is_started = true;
      }
      if (!is_complete) is_complete = progress(next);
    };
    while (worker_->is_busy() && !transport_.failed()) {
      go_on();
      bool is_idle = is_complete;
      for (MPI_Request& request : lane_of(i).sent) is_idle = transport_.test(&request) && is_idle;
      is_idle ? worker_->wait() : worker_->wait(kBetweenLooks);
    }
    worker_->wait();
    while (!is_started && !transport_.failed()) go_on();
  }
  for (Lane& lane : lanes_) finish_sending(lane);
  if (transport_.failed()) return give_up();
  if (call_.has_rows() && last_step_ == 0) {
    compute(steps.size());
    worker_->wait();
  }
  transport_.free_type(&page_);
  return computed_;
}

/// Transfers that never end still point to the buffers.
Status TravellingBlocks::give_up() {
  worker_->wait();
  transport_.keep(workspace_.blocks);
  return transport_.status();
}

}  // namespace kumiko::distributed
