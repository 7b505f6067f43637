// SPDX-License-Identifier: Apache-2.0
// The implementation of a Plan: the problem, how it is cut, and the memory of its runs.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/attention.h"
#include "runtime/context.h"
#include "runtime/partition.h"
#include "runtime/problem.h"
#include "runtime/run_state.h"
#include "runtime/tuning.h"

namespace kumiko {

struct [[gnu::visibility("hidden")]] Plan::Impl {
  Impl(std::shared_ptr<Context::Impl> on, Problem what)
      : context(std::move(on)),
        problem(std::move(what)),
        states(context),
        spare_lengths_(problem.seqused_k) {}

  const std::shared_ptr<Context::Impl> context;
  Problem problem;
  AttentionArgs args;                    ///< As planned, without pointers; run() compares its own with these.
  std::vector<std::int32_t> kv_domains;  ///< [batch * kv_heads], or empty
  kernels::KernelSet kernels{};          ///< For the problem's element types; max_nr as tuned.
  Tunings tunings{};
  Partition partition;
  std::size_t scratch_bytes = 0;
  std::vector<std::int32_t> home;  ///< Traffic::home; for traced contexts only
  RunStatePool states;
  std::atomic<int> submitted{0};  ///< Runs submitted to streams that have not ended.

  std::string explain() const;
  Prediction predict(const MachineRates& rates) const;
  std::int64_t workspace_bytes() const;
  /// Takes the memory of all partitions that update() may make.
  PartitionSize reserve_for_updates();
  /// Cuts the problem. Errors: those of make_partition().
  Status cut(Partition * made);
  /// Replaces the planned lengths by valid new ones, finds shared pages anew if a table is given, and cuts
  /// the problem again if either needs it. Errors as prepare(), and std::bad_alloc; on an error nothing
  /// changes.
  Status update(std::span<const std::int32_t> lengths, const PageTable& table);
  /// Finds the sequences that share pages in a table.
  void find_common_pages(const PageTable& table, CommonPages* common);
  /// Whether sequences may share the reading of keys: not if all are computed in tiles, which are bound by
  /// arithmetic, and not in int8, where the scales of several sequences' queries lie in several places.
  bool may_share_keys() const {
    if (problem.types.key == kernels::Element::i8) return false;
    return forced_pipeline() == Pipeline::automatic || forced_pipeline() == Pipeline::decode;
  }
  /// The caller's choice, or the environment's.
  Pipeline forced_pipeline() const {
    return problem.pipeline != Pipeline::automatic ? problem.pipeline : context->config.pipeline;
  }

 private:
  const std::vector<int> workers_ = context->executor->workers_per_domain();
  // The previous ones, kept to reuse their memory.
  std::vector<std::int32_t> spare_lengths_;
  CommonPages spare_common_;
  CommonPagesFinder finder_;
  Partition spare_;
  PartitionSpace space_;
};

/// A line on the problem, as plans explain it.
std::string describe(const Problem& problem);

/// Chooses kernels and pipeline, cuts the problem into tasks and reserves what a run needs. Errors:
/// unsupported (more tasks than kMaxTasks), out_of_memory.
Status prepare(Plan::Impl& plan, bool may_be_updated = false);

/// The first step of prepare(): chooses kernels and pipelines. Errors: unsupported.
Status choose_kernels(Plan::Impl& plan);

/// The checks of kv_domains, which the plan copies, and of row_max, which need the plan's context and
/// kernels.
Status copy_kv_domains(const AttentionArgs& args, Plan::Impl& plan);
Status check_row_max(const Plan::Impl& plan, const AttentionArgs& args);

/// The checks of Plan::run, and of a one-shot call as far as they need no plan.
Status check_run(const Plan::Impl& plan, const AttentionArgs& args);
Status check_call(const AttentionArgs& args);

/// Runs the plan's tasks. The operands must be valid and of the planned problem.
Status execute(Plan::Impl& plan, const Operands& operands);

}  // namespace kumiko
