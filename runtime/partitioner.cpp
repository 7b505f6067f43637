// SPDX-License-Identifier: Apache-2.0
#include "runtime/partitioner.h"

#include <algorithm>

#include "runtime/merges_in_order.h"

namespace kumiko {
namespace {

constexpr std::int64_t kOneFineIn = 5;
// Chooses by multiples of the golden ratio: evenly among all pieces and among every n-th piece, so that
// domains which get heads in turn get equally many fine pieces.
constexpr bool is_one_in_five(std::uint64_t number) {
  return number * 0x9e3779b97f4a7c15u < ~std::uint64_t{0} / kOneFineIn;
}
// With this many pieces per worker the last one is small enough.
constexpr std::int64_t kEnoughPieces = 40;
// Up to this many splits per worker, each split is a piece of its own.
constexpr std::int64_t kFewSplits = 16;
// Heads are computed together if that leaves at least this many splits per worker.
constexpr std::int64_t kSplitsOfHeads = 4;

/// As many as fit in the default address space of a process on x86-64 and AArch64.
constexpr std::int64_t kMostFloats = (std::int64_t{1} << 47) / sizeof(float);

/// floats += splits * rows * size; false if the sum would not fit in the address space.
bool add_states(std::int64_t splits, std::int64_t rows, std::int64_t size, std::int64_t* floats) {
  std::int64_t more = 0;
  return !__builtin_mul_overflow(splits, rows, &more) && !__builtin_mul_overflow(more, size, &more) &&
         !__builtin_add_overflow(*floats, more, floats) && *floats <= kMostFloats;
}

Status too_large() {
  return {Code::out_of_memory, "the split states of q.shape would take more than 2^47 bytes"};
}

}  // namespace

Partitioner::Partitioner(const Problem& problem, const Tunings& tunings,
                         std::span<const std::int32_t> kv_domains, std::int64_t workers, const Way& way,
                         PartitionSpace& space, Partition& made)
    : problem_(problem),
      kv_domains_(kv_domains),
      blocks_(space.blocks),
      made_(made),
      workers_(workers),
      tasks_(workers > 1 ? workers * way.tasks_per_worker : 1),
      cut_{tunings, tasks_, problem.own_heads() * problem.total_rows() / tasks_,
           way.fine_rows == FineRows::halves, way.least_tiles},
      pieces_(space.pieces),
      cuts_(space.cuts),
      ways_(space.ways) {
  const auto for_each_length = [&](auto visit) {
    for (std::int64_t b = 0; b < problem.batch; ++b) {
      if (const std::int64_t rows = problem.rows_of(b); rows > 0) visit(rows);
      if (!problem.has_cu_seqlens_q) break;  // All have the same length.
    }
  };
  for_each_length([&](std::int64_t rows) {
    const std::int64_t most = cut_(rows).rows;
    const std::int64_t blocks = ceil_div(rows, most);
    count_ += problem.own_heads() * blocks;
    most_blocks_ = std::max(most_blocks_, blocks);
    if (!tunings.of(rows).pipeline->traits.in_place) tile_rows_ = std::max(tile_rows_, std::min(rows, most));
  });
  if (!problem.has_cu_seqlens_q) count_ *= problem.batch;
  wants_fine_ = cut_.wants_fine = workers > 1 && count_ < workers * kEnoughPieces;
  for_each_length([&](std::int64_t rows) { cut_.has_fine = cut_.has_fine || cut_(rows).fine > 0; });
  fine_keys_ = wants_fine_ && !cut_.has_fine;
}

bool Partitioner::matters(const Way& way, const Problem& problem, const Tunings& tunings,
                          std::int64_t workers) {
  if (way.least_tiles == 1) return true;
  const Tuning& tuning = tunings.of(problem.most_rows());
  return workers > 1 && !tuning.pipeline->traits.in_place && problem.kv_len > kernels::kSplitKeys &&
         problem.most_rows() > tuning.min_task_rows &&
         problem.own_heads() * problem.total_rows() / (workers * way.tasks_per_worker) <
             way.least_tiles * tuning.min_task_rows;
}

Status Partitioner::run() {
  if (count_ > kMaxTasks) {
    return {Code::unsupported, "q.shape makes " + std::to_string(count_) +
                                   " tasks of attention; expected at most " + std::to_string(kMaxTasks)};
  }
  clear();
  blocks_.set(problem_, cut_, made_.shared);
  set_heads();
  set_costs();
  for (std::int64_t b = 0; b < problem_.batch; ++b)
    if (!take(b)) return too_large();
  if (Status s = add_shared(); !s.ok()) return s;
  made_.tasks.resize(num_tasks_);
  made_.costs.resize(num_tasks_);
  return {};
}

void Partitioner::clear() {
  made_.merges.clear();
  made_.partial_floats = 0;
  made_.shared.find(problem_);
  made_.merge_of.assign(
      made_.shared.groups.empty() ? 0 : static_cast<std::size_t>(problem_.batch * problem_.kv_heads), -1);
  if (made_.tasks.capacity() > 0) return;  // Reserved, or as large as an earlier partition.
  const auto likely = static_cast<std::size_t>(count_ + (wants_fine_ ? 2 * tasks_ : 0));
  made_.tasks.reserve(likely);
  made_.costs.reserve(likely);
}

void Partitioner::set_heads() {
  heads_ = problem_.heads_side_by_side();
  if (heads_ == 1) return;
  const auto is_in_place = [&](std::int64_t b) {
    return cut_.tunings.of(problem_.rows_of(b)).pipeline->traits.in_place;
  };
  const auto parts = [&] { return ceil_div(problem_.own_heads(), heads_); };  // of a sequence's heads
  std::int64_t splits = 0, blocks = 0, tiles = 0;
  for (std::int64_t b = 0; b < problem_.batch; ++b) {
    const std::int64_t count = blocks_.count(b);
    (count > 0 && is_in_place(b) ? blocks : tiles) += count;
    for (std::int64_t i = 0; i < count && is_in_place(b); ++i) splits += blocks_.whole(b, i).splits();
  }
  while (heads_ > 1 && workers_ > 1 && splits * parts() < kSplitsOfHeads * workers_) heads_ /= 2;
  if (heads_ > 1) heads_ = ceil_div(problem_.own_heads(), parts());  // parts as equal as they can be
  count_ = blocks * parts() + tiles * problem_.own_heads();
  wants_fine_ = cut_.wants_fine = workers_ > 1 && count_ < workers_ * kEnoughPieces;
  fine_keys_ = wants_fine_ && !cut_.has_fine;
}

/// Heads of the task that begins with head h: those of one home.
std::int64_t Partitioner::heads_from(std::int64_t b, std::int64_t h) const {
  if (heads_ == 1 || !pipeline_->traits.in_place) return 1;
  const std::int64_t most = std::min(heads_, problem_.end_head() - h);
  if (kv_domains_.empty()) return most;
  const std::span homes = kv_domains_.subspan(static_cast<std::size_t>(b * problem_.kv_heads + h),
                                              static_cast<std::size_t>(most));
  return std::find_if(homes.begin(), homes.end(), [&](std::int32_t home) { return home != homes[0]; }) -
         homes.begin();
}

// A piece of a cut block costs at least half of what piece_of() aims at.
PartitionSize Partitioner::most() {
  if (count_ > kMaxTasks) return {};
  const std::int64_t splits = ceil_div(problem_.kv_len, kernels::kSplitKeys);
  // Decode has one way, whose blocks the plan itself makes; of tiles another way may come later, with other
  // lengths.
  if (!cut_.tunings.of(problem_.most_rows()).pipeline->traits.in_place) blocks_.set(problem_, cut_, {});
  const std::int64_t whole = cut_.has_fine ? blocks_.fine_count() * problem_.own_heads() : count_;
  std::int64_t cut = workers_ > 1 ? 2 * tasks_ : 0;
  PartitionSize most;
  most.heads = problem_.heads_side_by_side();
  const bool fine_keys = fine_keys_ || (most.heads > 1 && workers_ > 1 && !cut_.has_fine);
  if (fine_keys) {
    cut += 2 * kFinerBy * tasks_ / kOneFineIn;                                         // the fine parts
    cut += std::min(4 * kFinerBy * (count_ / kOneFineIn + 2), 2 * kFinerBy * tasks_);  // the fine blocks
  }
  most.tasks = static_cast<std::size_t>(std::min(whole + cut, whole * std::max<std::int64_t>(splits, 1)));
  most.merges = static_cast<std::size_t>(workers_ > 1 ? std::min(whole, fine_keys ? count_ : tasks_) : 0);
  // Split states are reserved only where they are few: allocated memory counts against the system's limits
  // even if nobody touches it.
  constexpr std::int64_t kFewFloats = std::int64_t{1} << 22;
  std::int64_t floats = 0;
  const bool few = workers_ > 1 && splits <= kFewFloats && problem_.total_rows() <= kFewFloats &&
                   problem_.kv_heads <= kFewFloats &&
                   add_states(splits, problem_.total_rows() * problem_.kv_heads,
                              kernels::partial_size(problem_.v_head_dim), &floats);
  most.partial_floats = few && floats <= kFewFloats ? floats : 0;
  most.tile_rows = tile_rows_;
  // Rows of tiles are cut into fewer than 2 * kFinerBy finer ones, or twice along the keys; those of decode
  // for each task of heads.
  const std::int64_t cuts = most_blocks_ * std::max(problem_.own_heads(), 1 + 2 * kFinerBy);
  most.blocks = static_cast<std::size_t>(most_blocks_);
  most.cuts = static_cast<std::size_t>(cuts);
  most.pieces = static_cast<std::size_t>(workers_ > 1 ? cuts * std::max<std::int64_t>(splits, 1) : cuts);
  return most;
}

void Partitioner::set_costs() {
  made_.cost_unit = blocks_.cost_unit();
  coarse_ =
      workers_ == 1 ? blocks_.total_cost() + 1 : std::max<std::int64_t>(blocks_.total_cost() / tasks_, 1);
  fine_cost_ = std::max<std::int64_t>(coarse_ / kFinerBy, 1);
  if (!fine_keys_) return;
  std::int64_t splits = 0;
  for (const RowBlock& block : blocks_.all()) splits += std::min(block.splits(), kFewSplits * workers_ + 1);
  single_splits_ = splits * ceil_div(problem_.own_heads(), heads_) <= kFewSplits * workers_;
}

bool Partitioner::take(std::int64_t b) {
  const std::int64_t count = blocks_.count(b);
  if (count == 0) return true;
  pipeline_ = cut_.tunings.of(problem_.rows_of(b)).pipeline;
  pieces_.clear();
  cuts_.clear();
  ways_.assign(static_cast<std::size_t>(2 * count), {});
  // Copies, so that the compiler need not load them again after each store to a task.
  const std::int64_t end = problem_.end_head();
  std::uint64_t number = number_;
  std::size_t at = num_tasks_;
  for (std::int64_t h = problem_.first_head(), heads = 1; h < end; h += heads) {
    heads = heads_from(b, h);
    for (std::int64_t i = 0; i < count; ++i) {
      const bool is_fine = is_one_in_five(number++);
      BlockWay& way = ways_[static_cast<std::size_t>(2 * i + is_fine)];
      if (way.heads != heads && !cut_block(b, i, heads, is_fine, way)) return false;
      for (std::size_t c = way.first; c < way.last; ++c) {
        const BlockCut& cut = cuts_[c];
        if (at + cut.pieces > made_.tasks.size()) make_room(at + cut.pieces);
        add_tasks(cut, b, h, heads, at);
        if (cut.merges && !add_merges(cut, b, h, heads, at)) return false;
        at += cut.pieces;
      }
    }
  }
  number_ = number;
  num_tasks_ = at;
  return true;
}

bool Partitioner::cut_block(std::int64_t b, std::int64_t i, std::int64_t heads, bool is_fine, BlockWay& way) {
  const std::span<const RowBlock> fine =
      cut_.has_fine && is_fine ? blocks_.fine(b, i) : std::span<const RowBlock>();
  way = {heads, cuts_.size(), cuts_.size()};
  for (const RowBlock& block : fine.empty() ? std::span(&blocks_.whole(b, i), 1) : fine)
    if (!cut_keys(block, heads, is_fine && fine.empty())) return false;
  way.last = cuts_.size();
  return true;
}

std::int64_t Partitioner::next_piece(const RowBlock& block, std::int64_t block_cost, std::int64_t left,
                                     bool is_fine) const {
  if (single_splits_) return 1;
  // In a large batch most blocks are one piece: avoid the division for them.
  if (!(fine_keys_ && is_fine) && 2 * block_cost < 3 * coarse_) return left;
  const std::int64_t split_cost = std::max<std::int64_t>(block_cost / block.splits(), 1);
  if (!fine_keys_) return piece_of(left, split_cost, coarse_);
  if (block_cost < 2 * coarse_) return piece_of(left, split_cost, is_fine ? fine_cost_ : coarse_);
  // The block is large enough for a fine part of its own.
  const std::int64_t tail = block.splits() / kOneFineIn;
  return left > tail ? piece_of(left - tail, split_cost, coarse_) : piece_of(left, split_cost, fine_cost_);
}

std::int64_t Partitioner::piece_of(std::int64_t left, std::int64_t split_cost, std::int64_t most) {
  const std::int64_t pieces = std::max<std::int64_t>((left * split_cost + most / 2) / most, 1);
  return std::clamp<std::int64_t>((left + pieces / 2) / pieces, 1, left);
}

bool Partitioner::cut_keys(const RowBlock& block, std::int64_t heads, bool is_fine) {
  BlockCut& cut = cuts_.emplace_back(BlockCut{&block, pieces_.size()});
  const std::int64_t block_cost = block.cost * heads;
  // Without a fine part only an outlier is cut: one long sequence among short ones.
  const bool whole = workers_ == 1 || block.splits() <= 1 || (!fine_keys_ && block_cost <= 2 * coarse_);
  std::int64_t splits = whole ? block.splits() : next_piece(block, block_cost, block.splits(), is_fine);
  // A caller that keeps the states of splits merges them itself.
  cut.merges = (splits < block.splits() || block.shared_splits > 0) &&
               problem_.states_kept != StatesKept::of_each_split;
  if (cut.merges && !add_states(block.splits(), block.row_end - block.row_begin,
                                kernels::partial_size(problem_.v_head_dim), &cut.floats))
    return false;
  std::int64_t cost_before = 0;
  for (std::int64_t at = block.split_begin;;
       splits = next_piece(block, block_cost, block.split_end - at, is_fine)) {
    at += splits;
    const std::int64_t cost = block.cost_until(at) * heads;
    pieces_.push_back({at, cost - cost_before});
    cost_before = cost;
    if (at == block.split_end) break;
  }
  cut.pieces = pieces_.size() - cut.first_piece;
  cut.in_order = cut.merges && heads == 1 && are_merged_in_order(cut);
  return true;
}

/// States of 64 KiB a split and more are merged as they become ready. Merged by one task at the end they took
/// 0.2 of the 1.6 ms of 128 rows of 576 and 512 elements over 4096 keys, while the other thread had nothing
/// to do (Zen 5).
bool Partitioner::are_merged_in_order(const BlockCut& cut) const {
  constexpr std::int64_t kLeastFloats = 64 * 1024 / sizeof(float);
  return cut.block->shared_splits == 0 && problem_.states_kept == StatesKept::none &&
         cut.pieces <= std::size_t{MergesInOrder::kMostTasks} &&
         cut.floats >= kLeastFloats * cut.block->splits();
}

bool Partitioner::add_merges(const BlockCut& cut, std::int64_t b, std::int64_t h, std::int64_t heads,
                             std::size_t first_task) {
  const RowBlock& block = *cut.block;
  for (std::int64_t i = h; i < h + heads; ++i) {
    if (block.shared_splits > 0)
      made_.merge_of[static_cast<std::size_t>(b * problem_.kv_heads + i)] =
          static_cast<std::int32_t>(made_.merges.size());
    // Field by field: filling a struct and then copying it stalls on its own stores, which took
    // half the time of a cut.
    PlannedMerge& merge = made_.merges.emplace_back();
    merge.tasks = static_cast<std::int32_t>(cut.pieces);
    merge.split_begin = block.split_begin;
    merge.split_end = block.split_end;
    merge.row_begin = block.row_begin;
    merge.row_end = block.row_end;
    merge.partial_offset = made_.partial_floats;
    merge.shared_splits = block.shared_splits;
    if (cut.in_order) merge.in_order = static_cast<std::int32_t>(first_task);
    made_.partial_floats += cut.floats;  // Neither is more than kMostFloats.
    if (made_.partial_floats > kMostFloats) return false;
  }
  return true;
}

Status Partitioner::add_shared() {
  made_.shared_merges = static_cast<std::int32_t>(made_.merges.size());
  std::int64_t group = 0;
  for (const RowBlock& block : blocks_.shared()) {
    for (std::int64_t h = 0; h < problem_.kv_heads; ++h) {
      if (Status s = cut_shared(block, group, h); !s.ok()) return s;
    }
    ++group;
  }
  return {};
}

Status Partitioner::cut_shared(const RowBlock& block, std::int64_t group, std::int64_t h) {
  const Tuning& tuning = cut_.tunings.of(block.row_end);
  const SharedKeys& keys = made_.shared.groups[static_cast<std::size_t>(group)];
  const std::vector<std::int32_t>& sequences = problem_.common.sequences;
  const std::int32_t first = sequences[static_cast<std::size_t>(keys.first)];
  const auto merge = static_cast<std::int32_t>(made_.merges.size());
  made_.merges.push_back({0, block.split_begin, block.split_end, 0, block.row_end, made_.partial_floats, 0});
  if (!add_states(block.splits(), block.row_end, kernels::partial_size(problem_.v_head_dim),
                  &made_.partial_floats))
    return too_large();
  pipeline_ = tuning.pipeline;
  const std::int64_t pieces =
      std::clamp<std::int64_t>((block.cost + coarse_ / 2) / coarse_, 1, block.splits());
  // A row merges its first splits before all others, so the task may do that while their states are in its
  // tiles: 64 rows of D = 128 over 8 splits take 0.97 of the time in pairs of bf16 (Zen 5).
  if (block.split_begin == 0 && !tuning.pipeline->traits.in_place && problem_.states_kept == StatesKept::none)
    made_.merges.back().merged_end = block.splits() / pieces;
  for (std::int64_t row = 0; row < block.row_end; row += tuning.max_task_rows) {
    RowBlock rows = block;
    rows.row_begin = row;
    rows.row_end = std::min(row + tuning.max_task_rows, block.row_end);
    for (std::int64_t i = 0; i < pieces; ++i) {
      const std::int64_t from = block.split_begin + block.splits() * i / pieces,
                         to = block.split_begin + block.splits() * (i + 1) / pieces;
      const auto share = static_cast<double>((to - from) * (rows.row_end - row)) /
                         static_cast<double>(block.splits() * block.row_end);
      if (num_tasks_ == made_.tasks.size()) make_room(num_tasks_ + 1);
      made_.tasks[num_tasks_] = {
          first, static_cast<std::int32_t>(h),    1, rows.row_begin, rows.row_end, from, to, pipeline_,
          merge, static_cast<std::int32_t>(group)};
      const std::int32_t head = group_of(first, h);
      made_.costs[num_tasks_++] = {static_cast<std::int64_t>(static_cast<double>(block.cost) * share), head,
                                   home_of(head)};
    }
    for (std::int64_t i = keys.first; i < keys.last; ++i) {
      if (!made_.shared.has_rows(keys, i, problem_.group(), row, rows.row_end)) continue;
      const std::int64_t head = sequences[static_cast<std::size_t>(i)] * problem_.kv_heads + h;
      made_.merges[static_cast<std::size_t>(made_.merge_of[static_cast<std::size_t>(head)])].tasks +=
          static_cast<std::int32_t>(pieces);
    }
  }
  return {};
}

// For some heads at once: a vector's resize() takes as long as several tasks.
[[gnu::noinline]] void Partitioner::make_room(std::size_t tasks) {
  constexpr std::size_t kMore = 64;
  const std::size_t size = std::max(tasks, std::min(tasks + kMore, made_.tasks.capacity()));
  made_.tasks.resize(size);
  made_.costs.resize(size);
}

void Partitioner::add_tasks(const BlockCut& cut, std::int64_t b, std::int64_t h, std::int64_t heads,
                            std::size_t first_task) {
  const auto batch = static_cast<std::int32_t>(b), head = static_cast<std::int32_t>(h),
             of_task = static_cast<std::int32_t>(heads), group = group_of(b, h), home = home_of(group),
             merge = cut.merges ? static_cast<std::int32_t>(made_.merges.size()) : -1;
  const RowBlock& block = *cut.block;
  PlannedTask* task = made_.tasks.data() + first_task;
  scheduler::Task* cost = made_.costs.data() + first_task;
  std::int64_t split = block.split_begin;
  for (const Piece& piece : std::span(pieces_).subspan(cut.first_piece, cut.pieces)) {
    *task++ = {batch,     head,  of_task, block.row_begin, block.row_end, split, piece.split_end,
               pipeline_, merge, -1};
    *cost++ = {piece.cost, group, home};
    split = piece.split_end;
  }
}

std::int32_t Partitioner::group_of(std::int64_t b, std::int64_t h) const {
  return static_cast<std::int32_t>(b * problem_.kv_heads + h);
}
std::int32_t Partitioner::home_of(std::int32_t group) const {
  return kv_domains_.empty() ? -1 : kv_domains_[static_cast<std::size_t>(group)];
}

}  // namespace kumiko
