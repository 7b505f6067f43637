// SPDX-License-Identifier: Apache-2.0
// The implementation of a BackwardPlan, the memory of its runs, and what the tasks of one run share.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <mutex>
#include <new>
#include <span>
#include <string>
#include <vector>

#include "kernels/pipelines/backward.h"
#include "runtime/attention_backward.h"
#include "runtime/context.h"
#include "runtime/problem.h"
#include "runtime/row_block.h"
#include "scheduler/list_schedule.h"
#include "scheduler/policy.h"

namespace kumiko {

/// One KV head of one sequence. Blocks of queries are those of its group's heads, one head after another.
struct GradientUnit {
  std::int64_t capacity = 0;  ///< keys in dk and dv, used or not
  std::int64_t all_q_blocks = 0, k_blocks = 0;
  kernels::GradientProblem gradient{};
  float *lse = nullptr, *delta = nullptr;  ///< [group][q_len], as gradient's
  const float *dlse = nullptr, *given_delta = nullptr;
  double* sink_sums = nullptr;  ///< [group][the run's q_blocks]

  /// The number of steps that pair every block of queries with every block of keys.
  std::int64_t steps() const { return std::max(all_q_blocks, k_blocks); }
  static kernels::Positions keys(std::int64_t c, std::int64_t count) {
    return {std::min(c * kernels::kGradientBlock, count), std::min((c + 1) * kernels::kGradientBlock, count)};
  }
};

/// The work of a task: block r of the queries and block c of the keys of a unit, or only one of them (the
/// other is -1).
struct GradientItem {
  std::int32_t unit, r, c;
};

/// Memory of one run in flight.
struct BackwardState {
  struct Free {
    void operator()(std::byte* memory) const noexcept { ::operator delete[](memory, std::align_val_t{64}); }
  };
  std::vector<GradientUnit> units;
  std::vector<GradientItem> items;
  std::vector<scheduler::Task> tasks;
  scheduler::PolicySpace space;
  scheduler::Assignment assignment;
  std::unique_ptr<std::byte[], Free> sums;  ///< of units that are computed together
  std::vector<double> sink_sums;            ///< [batch][q_heads][q_blocks]
  std::unique_ptr<BackwardState> next;
};

struct [[gnu::visibility("hidden")]] BackwardPlan::Impl {
  /// `what` must be valid except for pointers.
  Impl(std::shared_ptr<Context::Impl> on, const BackwardArgs& what);

  const std::shared_ptr<Context::Impl> context;
  const BackwardArgs args;  ///< As planned, without pointers.
  const bool has_dsinks, has_dalibi_slopes;
  const Problem problem;
  kernels::GradientKernels kernels{};       ///< Of dq, dk and dv.
  kernels::GradientKernels term_kernels{};  ///< Of dbias and dalibi_slopes: products of f32.
  std::int64_t units = 0;
  std::int64_t alone = 0;            ///< How many of the first units are each the work of one thread.
  std::vector<std::int64_t> groups;  ///< The other units, computed a group at a time: where each group ends.
  std::size_t pair_bytes = 0, scratch_bytes = 0;  ///< A core's: of a pair of blocks, and with all sums.
  double sum_bytes = 0;                           ///< Of the largest group.
  std::int64_t most_units = 0, most_tasks = 0;    ///< Of a group, and of one job.

  /// Chooses what is computed together, and takes the memory of a run. Errors: unsupported, out_of_memory.
  Status prepare();
  /// The operands must be valid and of the planned problem.
  Status execute(const BackwardArgs& run_args);
  std::string explain() const;
  std::int64_t workspace_bytes() const;

  std::int64_t q_blocks() const {
    return ceil_div(problem.q_len, kernels::kGradientBlock);
  }
  /// Lays a unit's sums and rows out over `memory`; with nullptr it only counts. Returns the bytes.
  double lay_out(GradientUnit * unit, std::byte * memory) const;
  std::span<const int> workers() const {
    return workers_;
  }

 private:
  kernels::GradientKernels kernels_of(kernels::Element product) const;
  std::unique_ptr<BackwardState> make_state() const;

  const std::vector<int> workers_ = context->executor->workers_per_domain();
  std::mutex mutex_;
  std::unique_ptr<BackwardState> idle_;
};

/// What the tasks of one run read.
struct BackwardRun {
  const BackwardPlan::Impl& plan;
  const BackwardArgs& args;
  const Operands operands;
  BackwardState& state;

  GradientUnit make_unit(std::int64_t number) const;
  /// A query's lse and delta; returns what it gives to the gradient of its head's sink.
  double begin_row(const GradientUnit& unit, std::int64_t head, std::int64_t i, float* lse,
                   float* delta) const;

  /// Calls body(task, scratch) for each of `count` tasks, on all threads. Errors: out_of_memory.
  template <class Body>
  Status for_each_task(std::int64_t count, const Body& body) const {
    if (count == 0) return {};
    const scheduler::PolicyRow& policy = *scheduler::find_policy("flat");
    const std::span<const scheduler::Task> tasks(state.tasks);
    policy.fill(tasks.first(static_cast<std::size_t>(count)), plan.workers(), state.space, state.assignment);
    scheduler::Job job;
    job.assignment = &state.assignment;
    job.body = [](void* context, std::int32_t task, const scheduler::Slot& slot) noexcept {
      (*static_cast<const Body*>(context))(task, slot.scratch);
    };
    job.context = const_cast<Body*>(&body);
    job.scratch_bytes = plan.scratch_bytes;
    if (plan.context->executor->run(job)) return {};
    return {Code::out_of_memory,
            "scratch of " + std::to_string(plan.scratch_bytes) + " bytes a core could not be allocated"};
  }
};

/// Sets dq, dk, dv and the sums of dsinks (backward_steps.cpp).
Status run_steps(const BackwardRun& run);

/// Sets dbias and dalibi_slopes, those that are wanted (backward_terms.cpp), in tasks of their own.
Status run_terms(const BackwardRun& run);
/// The number of regions of dbias or of dalibi_slopes, whichever has more, and of the tasks that compute
/// them: each task has one region or several.
double count_term_regions(const BackwardPlan::Impl& plan);
std::int64_t count_term_tasks(const BackwardPlan::Impl& plan);
/// Bytes of scratch that a task of run_terms() needs in addition to a pair's: the sums of a region, lse and
/// delta.
inline constexpr std::size_t kTermSumBytes =
    kernels::kGradientPiece * (kernels::kGradientPiece * sizeof(double) + 2 * sizeof(float));

}  // namespace kumiko
