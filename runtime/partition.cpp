// SPDX-License-Identifier: Apache-2.0
#include "runtime/partition.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "runtime/row_block.h"
#include "scheduler/list_schedule.h"

namespace kumiko {
namespace {

using kernels::kSplitKeys;
using kernels::min_of;

// Equal pieces leave workers idle by up to one piece: 8 a worker, an eighth of the time. So one piece in five
// is cut finer by this factor. The policies deal costly pieces first, and the fine ones fill the gaps: a
// fiftieth of the time, for a fifth of the overhead of cutting everything so fine.
constexpr std::int64_t kFinerBy = 6;
constexpr std::int64_t kOneFineIn = 5;
// Which of five: multiples of the golden ratio, that is evenly among all pieces and among every n-th of them,
// so that domains to which heads are dealt in turn have fine pieces alike.
constexpr bool is_one_in_five(std::uint64_t number) {
  return number * 0x9e3779b97f4a7c15u < ~std::uint64_t{0} / kOneFineIn;
}
// With so many pieces a worker the last of them is small enough.
constexpr std::int64_t kEnoughPieces = 40;
// So few splits a worker can all be pieces of their own.
constexpr std::int64_t kFewSplits = 16;

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return a / b + (a % b != 0);
}

/// How the one piece in five is cut finer.
enum class FineRows : std::uint8_t {
  halves,  ///< Half, a quarter, ...: enough where pieces divide evenly, but cores are not equally fast.
  sixths,  ///< Fills larger gaps.
};

struct Way {
  FineRows fine_rows;
  std::int64_t tasks_per_worker;  ///< Aim for the pieces that are not cut finer.
};
/// Ways to cut rows, the one with the fewest tasks first.
constexpr Way kWays[] = {{FineRows::halves, 8},
                         {FineRows::sixths, 8},
                         {FineRows::sixths, 6},
                         {FineRows::sixths, 20},
                         {FineRows::sixths, 30}};

/// Rows a task takes: all that fits, but fewer where that would leave workers without enough tasks; the
/// blocks of a head are as equal as whole tiles allow.
std::int64_t task_rows_for(const Tuning& tuning, std::int64_t heads, std::int64_t rows, std::int64_t tasks) {
  if (tasks == 1) return tuning.max_task_rows;
  const std::int64_t unit = tuning.min_task_rows;
  const std::int64_t wanted = std::max(heads * rows / tasks, unit);
  const auto in_blocks = [&](std::int64_t blocks) { return ceil_div(ceil_div(rows, blocks), unit) * unit; };
  if (const std::int64_t about = in_blocks(std::max<std::int64_t>((rows + wanted / 2) / wanted, 1));
      about <= tuning.max_task_rows && about <= wanted + wanted / 8)
    return about;
  return in_blocks(ceil_div(rows, std::min(wanted / unit * unit, tuning.max_task_rows)));
}

/// What a process may address on x86-64 and AArch64 without being asked for more.
constexpr std::int64_t kAddressSpace = std::int64_t{1} << 47;

/// floats += splits * rows * size; false when they would not fit in the address space.
bool add_states(std::int64_t splits, std::int64_t rows, std::int64_t size, std::int64_t* floats) {
  std::int64_t more = 0;
  return !__builtin_mul_overflow(splits, rows, &more) && !__builtin_mul_overflow(more, size, &more) &&
         !__builtin_add_overflow(*floats, more, floats) &&
         *floats <= kAddressSpace / static_cast<std::int64_t>(sizeof(float));
}

class Partitioner {
 public:
  Partitioner(Plan::Impl& plan, std::int64_t workers, const Way& way)
      : plan_(plan),
        workers_(workers),
        tasks_(workers > 1 ? workers * way.tasks_per_worker : 1),
        halves_(way.fine_rows == FineRows::halves) {
    const AttentionArgs& a = plan.args;
    batch_ = a.q.shape[0];
    kv_heads_ = a.k.shape[1];
    rows_ = a.q.shape[1] / kv_heads_ * a.q.shape[2];
    task_rows_ = task_rows_for(plan.tuning, batch_ * kv_heads_, rows_, tasks_);
    blocks_per_head_ = ceil_div(rows_, task_rows_);
    count_ = batch_ * kv_heads_ * blocks_per_head_;
    wants_fine_ = workers > 1 && count_ < workers * kEnoughPieces;
  }

  /// So few row blocks that they need not divide the work well.
  bool wants_fine() const { return wants_fine_; }
  /// Rows can be cut finer than into the blocks that every head has.
  bool has_fine_rows() const { return wants_fine_ && task_rows_ > plan_.tuning.min_task_rows; }

  Status run() {
    if (count_ > kMaxTasks) {
      return {Code::unsupported, "q.shape makes " + std::to_string(count_) +
                                     " tasks of attention; expected at most " + std::to_string(kMaxTasks)};
    }
    const std::int64_t unit = plan_.tuning.min_task_rows;
    // Rows are cut finer before keys are, for split states cost memory.
    if (has_fine_rows()) fine_rows_ = std::max(task_rows_ / kFinerBy / unit * unit, unit);
    fine_keys_ = wants_fine_ && !has_fine_rows();
    const std::int64_t most = count_ + (wants_fine_ ? 2 * tasks_ : 0);
    plan_.tasks.reserve(static_cast<std::size_t>(most));
    plan_.costs.reserve(static_cast<std::size_t>(most));
    make_blocks();
    if (fine_keys_) {
      std::int64_t splits = 0;
      for (const RowBlock& block : blocks_) splits += std::min(block.splits(), kFewSplits * workers_ + 1);
      single_splits_ = splits * kv_heads_ <= kFewSplits * workers_;
    }
    for (std::int64_t b = 0; b < batch_; ++b) {
      for (std::int64_t h = 0; h < kv_heads_; ++h) {
        for (std::int64_t i = 0; i < blocks_per_head_; ++i) {
          if (Status s = take(b, h, i); !s.ok()) return s;
        }
      }
    }
    return {};
  }

 private:
  /// Heads of one sequence are alike: their blocks are computed once.
  void make_blocks() {
    const std::int64_t unit = plan_.tuning.min_task_rows;
    blocks_.reserve(static_cast<std::size_t>(batch_ * blocks_per_head_));
    for (std::int64_t b = 0; b < batch_; ++b) {
      const kernels::HeadProblem head = plan_.head(plan_.args, b, 0);
      for (std::int64_t row = 0; row < rows_; row += task_rows_) {
        const std::int64_t end = min_of(row + task_rows_, rows_);
        blocks_.push_back(row_block(plan_, head, row, end));
        if (fine_rows_ == 0) continue;
        fine_begin_.push_back(static_cast<std::int32_t>(fine_.size()));
        for (std::int64_t at = row, next; at < end; at = next) {
          const std::int64_t half = halves_ ? ceil_div((end - at) / 2, unit) * unit : 0;
          next = min_of(at + std::max(half, fine_rows_), end);
          fine_.push_back(row_block(plan_, head, at, next));
        }
      }
    }
    if (fine_rows_ > 0) fine_begin_.push_back(static_cast<std::int32_t>(fine_.size()));
    scale_costs();
  }

  /// A cost is below 2^55, but the sum over a long batch of long sequences passes 2^63. Only the costs'
  /// proportions matter, so where the sum would pass 2^61 all are made smaller by the same power of two:
  /// policies may add up what they are given.
  void scale_costs() {
    __extension__ using Wide = unsigned __int128;
    Wide sum = 0;
    for (const auto* list : {&blocks_, &fine_}) {
      for (const RowBlock& block : *list) sum += static_cast<Wide>(block.cost) * static_cast<Wide>(kv_heads_);
    }
    int shift = 0;
    while (sum >> shift > Wide{1} << 61) ++shift;
    plan_.cost_unit = std::ldexp(1.0, shift);
    for (auto* list : {&blocks_, &fine_}) {
      for (RowBlock& block : *list) block.cost >>= shift;
    }
    std::int64_t total = 0;
    for (const RowBlock& block : blocks_) total += block.cost * kv_heads_;
    coarse_ = workers_ == 1 ? total + 1 : std::max<std::int64_t>(total / tasks_, 1);
    fine_cost_ = std::max<std::int64_t>(coarse_ / kFinerBy, 1);
  }

  Status take(std::int64_t b, std::int64_t h, std::int64_t i) {
    const auto index = static_cast<std::size_t>(b * blocks_per_head_ + i);
    const bool is_fine =
        is_one_in_five(static_cast<std::uint64_t>((b * kv_heads_ + h) * blocks_per_head_ + i));
    if (fine_rows_ == 0 || !is_fine) return cut_keys(b, h, blocks_[index], is_fine);
    for (std::int32_t f = fine_begin_[index]; f < fine_begin_[index + 1]; ++f) {
      if (Status s = cut_keys(b, h, fine_[static_cast<std::size_t>(f)], false); !s.ok()) return s;
    }
    return {};
  }

  /// Splits of the next piece of a block of which `left` splits are left.
  std::int64_t next_piece(const RowBlock& block, std::int64_t left, bool is_fine) const {
    if (single_splits_) return 1;
    // A block of one piece is the common case of a large batch: no division for it.
    if (!(fine_keys_ && is_fine) && 2 * block.cost < 3 * coarse_) return left;
    const std::int64_t split_cost = std::max<std::int64_t>(block.cost / block.splits(), 1);
    if (!fine_keys_) return piece_of(left, split_cost, coarse_);
    if (block.cost < 2 * coarse_) return piece_of(left, split_cost, is_fine ? fine_cost_ : coarse_);
    // Large enough for a fine part of its own.
    const std::int64_t tail = block.splits() / kOneFineIn;
    return left > tail ? piece_of(left - tail, split_cost, coarse_) : piece_of(left, split_cost, fine_cost_);
  }

  /// Of `left` splits the first, where all of them make pieces of equal size and about `most`: no small rest.
  static std::int64_t piece_of(std::int64_t left, std::int64_t split_cost, std::int64_t most) {
    const std::int64_t pieces = std::max<std::int64_t>((left * split_cost + most / 2) / most, 1);
    return std::clamp<std::int64_t>((left + pieces / 2) / pieces, 1, left);
  }

  Status cut_keys(std::int64_t b, std::int64_t h, const RowBlock& block, bool is_fine) {
    // Without a fine part, only what is out of proportion is cut: one long sequence among short ones.
    const bool whole = workers_ == 1 || block.splits() <= 1 || (!fine_keys_ && block.cost <= 2 * coarse_);
    std::int64_t splits = whole ? block.splits() : next_piece(block, block.splits(), is_fine);
    if (splits == block.splits()) {
      add_task(b, h, block, block.split_begin, block.split_end, block.cost, -1);
      return {};
    }
    const auto merge = static_cast<std::int32_t>(plan_.merges.size());
    plan_.merges.push_back(
        {0, block.split_begin, block.split_end, block.row_begin, block.row_end, plan_.partial_floats});
    if (!add_states(block.splits(), block.row_end - block.row_begin,
                    kernels::partial_size(plan_.args.v.shape[3]), &plan_.partial_floats))
      return {Code::out_of_memory, "the split states of q.shape would take more than 2^47 bytes"};
    std::int64_t cost_before = 0;
    for (std::int64_t at = block.split_begin;; splits = next_piece(block, block.split_end - at, is_fine)) {
      const std::int64_t cost = block.cost_until(at + splits);
      add_task(b, h, block, at, at + splits, cost - cost_before, merge);
      cost_before = cost;
      ++plan_.merges.back().tasks;
      at += splits;
      if (at == block.split_end) return {};
    }
  }

  // Field by field: a struct that is filled and then copied waits for its own stores, half the time of a cut.
  void add_task(std::int64_t b, std::int64_t h, const RowBlock& block, std::int64_t split_begin,
                std::int64_t split_end, std::int64_t piece_cost, std::int32_t merge) {
    PlannedTask& task = plan_.tasks.emplace_back();
    task.batch = static_cast<std::int32_t>(b);
    task.kv_head = static_cast<std::int32_t>(h);
    task.row_begin = block.row_begin;
    task.row_end = block.row_end;
    task.split_begin = split_begin;
    task.split_end = split_end;
    task.merge = merge;
    scheduler::Task& cost = plan_.costs.emplace_back();
    cost.cost = piece_cost;
    cost.group = static_cast<std::int32_t>(b * kv_heads_ + h);
    if (!plan_.kv_domains.empty()) cost.home = plan_.kv_domains[static_cast<std::size_t>(cost.group)];
  }

  Plan::Impl& plan_;
  std::int64_t workers_, tasks_;  // tasks_: aim of the cut, those that are not cut finer
  bool halves_;
  std::int64_t batch_, kv_heads_, rows_, task_rows_, blocks_per_head_;
  std::int64_t count_;  // row blocks; below 2^62, as are batch * kv_heads and batch * kv_heads * rows: q fits
                        // in the address space
  bool wants_fine_;     // so few that they need not divide the work well
  std::int64_t fine_rows_ = 0;  // 0: rows are not cut finer
  bool fine_keys_ = false;
  std::vector<RowBlock> blocks_;  // [batch][blocks_per_head]
  std::vector<RowBlock>
      fine_;  // the same rows, cut finer: block n is fine_[fine_begin_[n], fine_begin_[n + 1])
  std::vector<std::int32_t> fine_begin_;
  std::int64_t coarse_ = 0, fine_cost_ = 0;  // costs of pieces
  bool single_splits_ = false;               // few splits in all: each is a piece
};

/// When the last worker is done, and when all would be if nobody waited; in FMAs.
struct Forecast {
  double makespan, even_share;
};
Forecast forecast(const Plan::Impl& plan, std::span<const int> workers_per_domain, std::int64_t workers) {
  double total = 0;
  for (const scheduler::Task& task : plan.costs) total += static_cast<double>(task.cost);
  const std::int64_t makespan = scheduler::simulate_makespan(plan.costs, plan.assignment, workers_per_domain);
  return {static_cast<double>(makespan) * plan.cost_unit,
          total / static_cast<double>(workers) * plan.cost_unit};
}

/// What partition_and_assign makes of a plan.
struct Cut {
  std::vector<PlannedTask> tasks;
  std::vector<scheduler::Task> costs;
  std::vector<PlannedMerge> merges;
  double cost_unit = 1;
  std::int64_t partial_floats = 0;
  scheduler::Assignment assignment;

  void swap_with(Plan::Impl& plan) {
    std::swap(tasks, plan.tasks);
    std::swap(costs, plan.costs);
    std::swap(merges, plan.merges);
    std::swap(cost_unit, plan.cost_unit);
    std::swap(partial_floats, plan.partial_floats);
    std::swap(assignment, plan.assignment);
  }
};

// What docs/planning.md promises.
constexpr double kEvenEnough = 1.03;

}  // namespace

Status partition_and_assign(Plan::Impl& plan, std::int64_t workers) {
  const std::vector<int> workers_per_domain = plan.context->executor->workers_per_domain();
  Cut best;
  double soonest = 0;
  // One way for decode: simulating would double the 17 to 50 us that a plan of 64 requests takes, and pieces
  // of whole splits are even enough.
  const bool is_decode = plan.tuning.pipeline->traits.in_place;
  // Every piece packs the keys it reads, and one of 48 rows takes half as long again for it (Zen 5, AVX-512,
  // D = 128). 8 heads of 1024 on two threads: 61 tasks with sixths 11.9 ms, 28 with halves 11.1, 16 whole
  // ones 11.6, for one core then waits for the other.
  for (const Way& way : kWays) {
    Partitioner partitioner(plan, workers, way);
    if (Status s = partitioner.run(); !s.ok()) {
      if (soonest == 0) return s;
      break;
    }
    plan.assignment = plan.context->config.policy->assign(plan.costs, workers_per_domain);
    if (is_decode || !partitioner.wants_fine()) return {};
    const Forecast ahead = forecast(plan, workers_per_domain, workers);
    if (ahead.makespan <= kEvenEnough * ahead.even_share) return {};
    if (soonest == 0 || ahead.makespan < soonest) {
      soonest = ahead.makespan;
      best.swap_with(plan);
    }
    Cut().swap_with(plan);
  }
  best.swap_with(plan);
  return {};
}

}  // namespace kumiko
